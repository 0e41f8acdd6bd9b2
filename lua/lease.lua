#!lua flags=allow-oom
-- Takes messages for a time, in the order of turns. What is not settled by then comes back.
--
-- Returns and errors: as take().
local name = ARGV[2] -- of the queue
local most = tonumber(ARGV[3]) -- messages, 1 to 250
local bytes = tonumber(ARGV[4]) -- of messages, at most
local length = tonumber(ARGV[5]) -- of the lease, ms

return take(name, most, bytes, function(q, chosen)
  -- The time is in it: should a crash of Redis take back the last draws of seq, no token fits twice.
  local lease = string.format("%.0f%06.0f", now, redis.call("INCR", seq) % 1000000)
  local records, ends = {}, {}
  for i = 1, #chosen, 2 do
    local facet, message = chosen[i], chosen[i + 1]
    local id = message:match("^(%d+) %d+ %d+ %d+ ")
    if not id then -- Somebody else has put it into the list: it is all body.
      id = string.format("%.0f", redis.call("INCR", seq))
      message = string.format("%s 0 %.0f 0 ", id, now) .. message
      chosen[i + 1] = message
    end
    records[#records + 1], ends[#ends + 1] = id, now + length
    records[#records + 1], ends[#ends + 1] = lease .. " " .. #facet .. " " .. facet .. message, id
  end
  redis.call("HSET", q.leased, unpack(records))
  redis.call("ZADD", q.timers, unpack(ends))
  return lease
end)
