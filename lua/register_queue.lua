#!lua flags=allow-oom
-- Sets the route of a queue. The same pattern again changes nothing.
--
-- It may run at maxmemory: workers register their queue when they start, and must be able to drain
-- a full Redis.
-- Returns whether anything changed.
-- Errors: CLOSED while a queue of that name is being destroyed; LAYOUT when the namespace has another
-- one by now.
local name = ARGV[2] -- of the queue
local pattern = ARGV[3]
local known = ARGV[4] -- layout that the namespace had when the client connected

if open(1).closed then
  return redis.error_reply("CLOSED the queue is being destroyed")
end
-- The namespace may have been deleted under a client that is connected.
redis.call("SET", layout, known, "NX")
if redis.call("GET", layout) ~= known then
  return redis.error_reply("LAYOUT the namespace has another layout")
end

local found = redis.call("HMGET", routes, name, ":version")
if found[1] == pattern then
  return 0
end
-- With the time in it, so that a version is never seen twice, not even after the namespace was
-- deleted.
local version = math.max((tonumber(found[2]) or 0) + 1, now)
redis.call("HSET", routes, name, pattern, ":version", string.format("%.0f", version))
redis.call("HDEL", routes, ":gone:" .. name)
return 1
