#!lua flags=allow-oom
-- Closes a queue at the first call, so that every verb refuses it, and removes a part of it at each.
--
-- Returns whether there is more to remove.
local name = ARGV[2] -- of the queue
local most = tonumber(ARGV[3]) -- facets whose messages this call removes
local begin = ARGV[4] -- 1 to close it; 0 to go on only if it is closed, and not there anew

local q = open(1)
if begin == "0" and not q.closed then
  return 0
end
if redis.call("HDEL", routes, name) == 1 then
  local version = tonumber(redis.call("HGET", routes, ":version")) or 0
  redis.call("HSET", routes, ":version", string.format("%.0f", math.max(version + 1, now)))
end
redis.call("HSET", q.clock, "closed", 1)
for _, set in ipairs({ q.ready, q.parked }) do
  local facets = redis.call("ZRANGE", set, 0, most - 1)
  if #facets > 0 then
    local lists = {}
    for i, facet in ipairs(facets) do
      lists[i] = q.list .. facet
    end
    redis.call("UNLINK", unpack(lists))
    redis.call("ZREM", set, unpack(facets))
    return 1
  end
end
redis.call("UNLINK", q.idle, q.timers, q.leased, q.held, q.weights, q.pauses, q.wake, q.clock)
return 0
