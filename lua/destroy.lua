#!lua flags=allow-oom
-- Closes a queue at the first call, so that every verb refuses it, and removes a part of it at each.
--
-- Returns whether there is more to remove.
-- Parts: unroute.
local name = ARGV[2] -- of the queue
local most = tonumber(ARGV[3]) -- facets or leases whose messages this call removes
local begin = ARGV[4] -- 1 to close it; 0 to go on only if it is closed, and not there anew
local marks = ARGV[5] -- 1 to close it on the first of several partitions, or 0

local q = open(1)
if begin == "0" and not q.closed then
  return 0
end
unroute(name, marks)
redis.call("HSET", q.clock, "closed", 1)
local prefixes =
  { [q.ready] = q.list, [q.parked] = q.list, [q.timers] = q.lease, [q.dead] = q.died_of }
for set, prefix in pairs(prefixes) do
  local names = redis.call("ZRANGE", set, 0, most - 1)
  if #names > 0 then
    local keys = {}
    for i, one in ipairs(names) do
      local delayed = set == q.timers and one:sub(1, 1) == "s"
      keys[i] = delayed and q.delays .. one:sub(2) or prefix .. one
    end
    redis.call("UNLINK", unpack(keys))
    redis.call("ZREM", set, unpack(names))
    return 1
  end
end
redis.call("UNLINK", q.idle, q.timers, q.held, q.settings, q.letters, q.wake, q.clock)
return 0
