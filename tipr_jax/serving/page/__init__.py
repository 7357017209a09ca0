"""The page: HTML that the server renders, plain forms and links that work without JavaScript.

htmx, in `static/`, exchanges the results alone where there is JavaScript. Style and script are
files of this folder, since the page may load nothing else.
"""
