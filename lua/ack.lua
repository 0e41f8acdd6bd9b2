#!lua flags=allow-oom
-- Ends leases that are still the caller's, and forgets their messages.
--
-- Returns as settle().
-- From ARGV[2] on, for each lease: its queue as a place among KEYS, message id, number of the
-- lease.
return settle(2, function(q, id)
  q.gone[#q.gone + 1], q.gone[id] = id, true
end)
