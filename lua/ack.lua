#!lua flags=allow-oom
-- Ends leases that are still the caller's, and forgets their messages.
--
-- Returns as settle().
-- From ARGV[2] on, for each lease: its queue as a place among KEYS, message id, number of the
-- lease.
return settle(2, function(q, id, record)
  local facet = parse(record)
  if facet then
    q.loads[facet] = (q.loads[facet] or 0) - 1
  end
  q.gone[#q.gone + 1], q.gone[id], q.acked = id, true, q.acked + 1
end)
