-- letters.lua: what redrive and discard have in common.

-- Chooses dead letters: one by its id, those of a facet with the oldest first, or those of all, an
-- equal number of each of up to 100 facets that are drawn by lot. Calls act(facet, letter) for each,
-- until most of them or MOST_BYTES were read, writes what that has gathered, and takes away those for
-- which it returned true. Returns how many these were.
local function letters_of(q, facet, id, most, act)
  redis.call("ZCARD", q.timers)
  local facets = { facet }
  if id ~= "" then
    id = ("0"):rep(16 - #id) .. id
    local letter = redis.call("HGET", q.letters, id) or ""
    local from, bytes = letter:match("^%d+ %d+ (%d+) ()")
    facets = { from and letter:sub(bytes, bytes + from - 1) }
    facets = (facet == "" or facet == facets[1]) and facets or {}
  elseif facet == "" then
    facets = redis.call("ZRANDMEMBER", q.dead, 100)
    table.sort(facets)
  end
  local each = math.ceil(most / math.max(1, #facets))
  local count, bytes, gone_of = 0, 0, {}
  for _, of in ipairs(facets) do
    local ids = id ~= "" and { id } or redis.call("ZRANGE", q.died_of .. of, 0, each)
    local done = {}
    for i, one in ipairs(ids) do
      if i > each or count >= most or bytes >= MOST_BYTES then
        break
      end
      local letter = redis.call("HGET", q.letters, one) or ""
      bytes = bytes + #letter
      if letter == "" or act(of, letter) then
        done[#done + 1], count = one, count + (letter == "" and 0 or 1)
      end
    end
    gone_of[of] = #done > 0 and done or nil
  end
  close(q)
  for of, ids in pairs(gone_of) do
    life().exhume(q, of, ids)
  end
  return count
end
