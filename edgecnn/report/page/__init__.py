"""The HTML page: elements, the document around them, words explained on hover, and one function per section.

`edgecnn/report/html_page.py` puts the sections of one run in order; whatever else becomes a page takes them from here.
"""
