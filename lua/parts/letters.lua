-- letters.lua: what redrive and discard have in common.

-- Chooses dead letters that had died by a time: one by its id, those of a facet with the oldest first, or
-- those of all, an equal number of each of up to 100 facets that are drawn by lot. Calls act(facet,
-- letter) for each, until most of them or MOST_BYTES were moved, writes what that has gathered, and takes
-- away those for which it returned true; it goes on with the next facet when it does not.
-- Returns how many it has moved; how many it has taken away, those among them that were not there; and
-- the time by which they had died: now, where `by` is 0.
local function letters_of(q, facet, id, most, by, act)
  redis.call("ZCARD", q.timers)
  by = by > 0 and by or now
  local count, removed, bytes, gone_of = 0, 0, 0, {}
  local function of(facets, ids)
    local each = math.ceil(most / math.max(1, #facets))
    for _, one in ipairs(facets) do
      local done = {}
      local old = ids
        or redis.call("ZRANGE", q.died_of .. one, "-inf", by, "BYSCORE", "LIMIT", 0, each)
      for _, letter_id in ipairs(old) do
        local letter = redis.call("HGET", q.letters, letter_id) or ""
        if removed >= most or bytes >= MOST_BYTES or letter ~= "" and not act(one, letter) then
          break
        end
        done[#done + 1], removed, bytes = letter_id, removed + 1, bytes + #letter
        count = count + (letter == "" and 0 or 1)
      end
      gone_of[one] = #done > 0 and done or nil
    end
  end
  if id ~= "" then
    id = ("0"):rep(16 - #id) .. id
    local letter = redis.call("HGET", q.letters, id) or ""
    local from, at = letter:match("^%d+ %d+ (%d+) ()")
    local whose = from and letter:sub(at, at + from - 1)
    of((facet == "" or facet == whose) and { whose } or {}, { id })
  elseif facet ~= "" then
    of({ facet })
  else
    local drawn = redis.call("ZRANDMEMBER", q.dead, 100)
    table.sort(drawn)
    of(drawn)
    if removed == 0 and #drawn == 100 then -- Those that were drawn had none of them.
      of(redis.call("ZRANGE", q.dead, "-inf", by, "BYSCORE", "LIMIT", 0, 100))
    end
  end
  close(q)
  for one, ids in pairs(gone_of) do
    life().exhume(q, one, ids)
  end
  return { count, removed, by }
end
