-- unroute.lua: what unregister_queue and destroy have in common.

-- Removes a route, and returns 1 if there was one. With marks, "1", it notes that it was removed and not
-- lost, for other partitions that have not heard it or lose it in a crash: as a version, in which is
-- the time.
local function unroute(name, marks)
  local removed = redis.call("HDEL", routes, name)
  if removed == 1 or marks == "1" then
    local version = tonumber(redis.call("HGET", routes, ":version")) or 0
    local text = string.format("%.0f", math.max(version + 1, now))
    redis.call("HSET", routes, ":version", text)
    if marks == "1" then
      redis.call("HSET", routes, ":gone:" .. name, text)
    end
  end
  return removed
end
