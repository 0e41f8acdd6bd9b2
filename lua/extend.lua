#!lua flags=allow-oom
-- Lets leases that are still the caller's end later, or sooner: a time from now.
--
-- Returns as settle().
local length = tonumber(ARGV[2]) -- of the lease from now on, ms
-- From ARGV[3] on, for each lease: its queue as a place among KEYS, message id, number of the
-- lease.

return settle(3, function(q, id)
  redis.call("ZADD", q.timers, now + length, id)
end)
