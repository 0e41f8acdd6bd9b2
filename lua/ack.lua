#!lua flags=allow-oom
-- Ends leases that are still the caller's, and forgets their messages.
--
-- Returns as settle().
-- From ARGV[2] on: the leases, as settle() has them.
return settle(2, function(q, lease, id, facet)
  q.leases[lease].gone[id], q.acked = facet, q.acked + 1
end)
