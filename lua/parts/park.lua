-- park.lua: what configure and hold_facet have in common.

-- Takes a facet out of ready, if it is there and its gate is closed. It gives back a place at the
-- front.
local function park(q, facet)
  local turn = redis.call("ZSCORE", q.ready, facet)
  local closed, opens
  if turn then
    closed, opens = gate(q, facet, settings(q, { facet })[1])
  end
  if closed then
    if closed == 4 then
      add(q, "timed", opens, "r" .. facet)
    end
    add(q, "parking", turn, facet)
    q.drained[#q.drained + 1] = facet
    q.facets, q.aside, q.moved = q.facets - 1, q.aside + 1, true
    if tonumber(turn) < q.floor then
      q.early = math.min(q.early + 1, q.facets)
    end
  end
end

-- Decides anew on a page of facets, the parked ones (p) before the ready ones (r). Returns where the next
-- page begins, "0" after the last one.
local function decide(q, cursor)
  local set = cursor:sub(1, 1) == "r" and q.ready or q.parked
  local page = redis.call("ZSCAN", set, cursor:sub(2), "COUNT", 100)
  for i = 1, #page[2], 2 do
    park(q, page[2][i])
    comes(q, page[2][i], "freed")
  end
  local following = (set == q.ready and "r" or "p") .. page[1]
  return following == "p0" and "r0" or following == "r0" and "0" or following
end
