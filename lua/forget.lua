#!lua flags=allow-oom
-- Takes away the marks of removals that are an hour old. Until then a partition may have lost one in a
-- crash or a failover after it had been reached.
--
-- Returns how many they were.
-- From ARGV[2] on: the queues that were removed.
local KEPT = 3600000 -- ms

local count = 0
for i = 2, #ARGV do
  local mark = ":gone:" .. ARGV[i]
  local removed = tonumber(redis.call("HGET", routes, mark) or now) -- a version has the time in it
  if removed + KEPT < now then
    count = count + redis.call("HDEL", routes, mark)
  end
end
return count
