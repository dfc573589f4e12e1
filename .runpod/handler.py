# RunPod's Hub looks for a handler of this name; the image starts it by `python -m linacodec_tier3.handler`.
from linacodec_tier3.handler import main

if __name__ == "__main__": main()
