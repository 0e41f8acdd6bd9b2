#!lua flags=allow-oom
-- Takes away the mark of a removal that has reached all partitions, unless a later one has left it.
--
-- Returns whether it did.
local name = ARGV[2] -- of the queue
local mark = ARGV[3] -- as it was before the other partitions were reached

if redis.call("HGET", routes, ":gone:" .. name) ~= mark then
  return 0
end
return redis.call("HDEL", routes, ":gone:" .. name)
