#!lua flags=allow-oom
-- Removes the route of a queue. What is on the queue stays, and can be pulled and leased.
--
-- Returns whether there was a route.
-- Parts: unroute.
local name = ARGV[2] -- of the queue
local marks = ARGV[3] -- 1 on the first of several partitions, or 0

return unroute(name, marks)
