"""The service: a gallery behind HTTP, with a page for people and JSON for programs.

A request passes `access` (who asks) and `limits` (how much they send). Its handler in `api` or
`page` calls `service`, which puts a job into the queue of `worker`, the one thread that works on
the gallery. The jobs are in `searching` and `pictures`; `app` puts everything together.
"""
