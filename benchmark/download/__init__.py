"""Data sets from where they are published into the folder that suites read: what is missing, and how it gets here.

`catalogue` says what can be fetched, `state` what is here, `fetch` gets the rest. Nothing here reads an image.
"""
