#!lua flags=allow-oom
-- Takes messages for a time, in the order of turns. What is not settled by then comes back.
--
-- Returns and errors: as take().
local name = ARGV[2] -- of the queue
local most = tonumber(ARGV[3]) -- messages, 1 to 250
local bytes = tonumber(ARGV[4]) -- of messages, at most
local length = tonumber(ARGV[5]) -- of the lease, ms

return take(name, most, bytes, function(q, chosen)
  local leases = redis.call("HLEN", q.leased)
  redis.call("HLEN", q.held)
  local drawn = redis.call("INCR", seq)
  -- The time is in it: should a crash of Redis take back the last draws of seq, no token fits
  -- twice.
  local lease = string.format("%.0f%06.0f", now, drawn % 1000000)
  local ids, rests = {}, {}
  for i = 2, #chosen, 2 do
    local id, rest = chosen[i]:match("^([1-9]%d*)() %d+ %d+ %d+ ")
    ids[i / 2], rests[i / 2] = id or "", rest or false
  end
  local held = leases > 0 and redis.call("HMGET", q.leased, unpack(ids)) or {}
  local records, ends, seen = {}, {}, {}
  for i, id in ipairs(ids) do
    local facet, message = chosen[2 * i - 1], chosen[2 * i]
    if not rests[i] or seen[id] or held[i] or tonumber(id) >= drawn then
      -- Somebody else has put it there, or put it there again: it gets an id that nothing else has.
      -- What is no message of ours is all body.
      id = string.format("%.0f", redis.call("INCR", seq))
      local rest = rests[i] and message:sub(rests[i]) or string.format(" 0 %.0f 0 ", now) .. message
      message = id .. rest
      chosen[2 * i] = message
    end
    seen[id], q.loads[facet] = true, (q.loads[facet] or 0) + 1
    records[2 * i - 1], records[2 * i] = id, lease .. " " .. #facet .. " " .. facet .. message
    ends[2 * i - 1], ends[2 * i] = now + length, id
  end
  redis.call("HSET", q.leased, unpack(records))
  redis.call("ZADD", q.timers, unpack(ends))
  return lease
end)
