#!lua flags=allow-oom
-- Removes the route of a queue. What is on the queue stays, and can be pulled and leased.
--
-- Returns whether there was a route.
local name = ARGV[2] -- of the queue

local version = tonumber(redis.call("HGET", routes, ":version")) or 0
local removed = redis.call("HDEL", routes, name)
if removed == 1 then
  redis.call("HSET", routes, ":version", string.format("%.0f", math.max(version + 1, now)))
end
return removed
