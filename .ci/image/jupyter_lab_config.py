# Opened by the link to JupyterLab in RunPod's console: the explorer, one click, Run All, from its first word.
c = get_config()  # noqa: F821
c.LabApp.default_url = "/lab/tree/workspace/linacodec-tier3/20_explore.ipynb"
