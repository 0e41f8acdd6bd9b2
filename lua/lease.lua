#!lua flags=allow-oom
-- Takes messages for a time, in the order of turns. What is not settled by then comes back.
--
-- Returns and errors: as take().
-- Parts: life, take.
local name = ARGV[2] -- of the queue
local most = tonumber(ARGV[3]) -- messages, 1 to 250
local bytes = tonumber(ARGV[4]) -- of messages, at most
local length = tonumber(ARGV[5]) -- of the lease, ms

return take(name, most, bytes, function(q, chosen)
  redis.call("HLEN", q.held)
  local drawn = redis.call("INCR", seq)
  -- The time is in it: should a crash of Redis take back the last draws of seq, no token fits
  -- twice.
  local lease = string.format("%.0f%06.0f", now, drawn % 1000000)
  local fields, seen = {}, {}
  for i = 2, #chosen, 2 do
    local facet, message = chosen[i - 1], chosen[i]
    local id = message:match("^([1-9]%d*) %d+ %d+ %d+[, ]")
    if not id or seen[id] or tonumber(id) >= drawn then
      -- Somebody else has put it there, or put it there again: it gets an id that nothing else has.
      -- What is no message of ours is all body.
      local rest = id and message:sub(#id + 1) or string.format(" 0 %.0f 0 ", now) .. message
      id = string.format("%.0f", redis.call("INCR", seq))
      message = id .. rest
      chosen[i] = message
    end
    seen[id] = true
    fields[2 * i - 3], fields[2 * i - 2] = id, facet
    fields[2 * i - 1], fields[2 * i] = "m" .. id, message
  end
  redis.call("ZADD", q.timers, now + length, lease)
  redis.call("HSET", q.lease .. lease, unpack(fields))
  return lease
end)
