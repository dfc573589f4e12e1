# RunPod's Hub looks for a handler of this name; the image's own command starts the same one.
from linacodec_tier3.handler import main

if __name__ == "__main__": main()
