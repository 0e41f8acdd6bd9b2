-- drain.lua: what purge and remove have in common.

-- Takes a facet that has no message waiting any more out of ready, or parked. What it had more than the
-- others it owes on.
local function drain(q, facet)
  for _, set in ipairs({ q.ready, q.parked }) do
    local turn = tonumber(redis.call("ZSCORE", set, facet))
    if turn then
      local ready = set == q.ready
      add(q, ready and "drained" or "resuming", facet)
      q.moved = true
      if turn > q.floor then
        q.owing[#q.owing + 1], q.owing[#q.owing + 2] = turn, facet
      end
      q.facets, q.aside = q.facets - (ready and 1 or 0), q.aside - (ready and 0 or 1)
    end
  end
end
