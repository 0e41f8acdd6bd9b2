#!lua flags=allow-oom
-- Takes messages for a time, in the order of turns. What is not settled by then comes back.
--
-- Returns and errors: as take().
local name = ARGV[2] -- of the queue
local most = tonumber(ARGV[3]) -- messages, 1 to 1,000
local bytes = tonumber(ARGV[4]) -- of messages; a first one is given whatever its size
local length = tonumber(ARGV[5]) -- of the lease, ms

return take(name, most, bytes, function(q, chosen)
  -- The time is in it: should a crash of Redis take back the last draws of seq, no token fits
  -- twice.
  local lease = string.format("%.0f", now * 1024 + redis.call("INCR", seq) % 1024)
  local records, ends = {}, {}
  for i = 1, #chosen, 2 do
    local facet, message = chosen[i], chosen[i + 1]
    local id = message:match("^%d+") or "0" -- What somebody else put into the list has no id.
    records[#records + 1], ends[#ends + 1] = id, now + length
    records[#records + 1], ends[#ends + 1] = lease .. " " .. #facet .. " " .. facet .. message, id
  end
  redis.call("HSET", q.leased, unpack(records))
  redis.call("ZADD", q.timers, unpack(ends))
  return lease
end)
