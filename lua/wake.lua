#!lua flags=allow-oom
-- Sets the marker of a queue again, that a worker took and has no use for any more.
--
-- Returns 1.
local q = open(1)
q.moved = not q.closed
close(q)
return 1
