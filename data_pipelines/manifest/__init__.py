"""Own photos and sentences: a manifest, one table with a line per sentence or per photo.

  file,caption,person_id,split
  photos/anna_1.jpg,"A woman in a red coat, carrying a bag.",anna,train
  photos/berta_1.jpg,A tall woman in jeans.,berta,test

CSV with commas, semicolons, tabs or bars between the values, a JSON list of objects, or JSON lines;
in UTF-8 or UTF-16. The first line of a CSV names the columns, in any order:

| column | meaning |
|---|---|
| file | the photo; relative paths start at the folder of the manifest |
| caption, caption_2, ... | what the photo shows; several lines about one photo add up |
| caption_zh, caption_zh_2, ... | the same in another language; caption_zh_2 translates caption_2 |
| language | optional, instead: the language of all captions of the line, en, zh, fr or de |
| person_id | optional: who it is, any text; without one each photo is a person of its own |
| split | optional: train, val or test; without the column people are drawn into splits |
| box | optional: x,y,width,height of the person in a whole picture, in pixels of the upright one |
| x, y, width, height | the same in four columns |
| camera | optional, for people: no code reads it |

Usual other names are understood (`header.SYNONYMS`). `python -m data_pipelines.check
--name=manifest --root=FILE` says what is wrong, `python -m data_pipelines.manifest make PHOTOS`
writes a first manifest.
"""

NAME = "manifest"  # value of data.name
