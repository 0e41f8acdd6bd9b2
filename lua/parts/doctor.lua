-- doctor.lua: what must be so of a facet, a lease, a timer and a dead letter, and how it is mended.

-- Makes what examines a queue. Each of its functions says what is broken with found(code, name, more),
-- and gathers what mends it.
local function examine(q, found)
  local function facet(name, counts)
    local waiting = tonumber(redis.pcall("LLEN", q.list .. name)) or 0
    local ready = redis.call("ZSCORE", q.ready, name)
    local parked = redis.call("ZSCORE", q.parked, name)
    local closed, opens = gate(q, name, settings(q, { name })[1])
    local opening = redis.call("ZSCORE", q.timers, "r" .. name)
      or redis.call("ZSCORE", q.timers, "h" .. name)
    opening = opening and (closed or tonumber(opening) < now + 1)
    if waiting > 0 and not ready and not parked then
      found("unlisted", name)
      comes(q, name, "coming")
    elseif waiting == 0 and (ready or parked) then
      found("empty", name)
      drain(q, name)
    elseif ready and parked then
      found("twice", name)
      add(q, "resuming", name)
      q.aside = q.aside - 1
    elseif ready and closed then
      found("open", name)
      park(q, name)
    elseif parked and not closed and not opening then
      found("stuck", name)
      comes(q, name, "freed")
    elseif parked and closed == 4 and not opening then
      found("untimed", name)
      add(q, "timed", opens, "r" .. name)
    end
    if waiting > 0 and redis.call("ZSCORE", q.idle, name) then
      found("owing", name)
      q.leaving[#q.leaving + 1] = name
    end
    local due = redis.call("ZRANGE", q.delays .. name, 0, 0, "WITHSCORES")[2]
    if due and tonumber(redis.call("ZSCORE", q.timers, "s" .. name)) ~= tonumber(due) then
      found("untimed", name)
      add(q, "timed", due, "s" .. name)
    end
    local oldest
    for _, id in ipairs(counts and NONE or redis.call("ZRANGE", q.died_of .. name, 0, 249)) do
      if redis.call("HEXISTS", q.letters, id) == 0 then
        found("ghost", name, id)
        add(q, "commands", { "ZREM", q.died_of .. name, id })
      else
        oldest = oldest or redis.call("ZSCORE", q.died_of .. name, id)
      end
    end
    if not counts and oldest ~= (redis.call("ZSCORE", q.dead, name) or nil) then
      found("grave", name)
      add(q, "commands", oldest and { "ZADD", q.dead, oldest, name } or { "ZREM", q.dead, name })
    end
    local held = tonumber(redis.call("HGET", q.held, name)) or 0
    return { name, waiting, redis.call("ZCARD", q.delays .. name), held }
  end

  local function lease(name)
    local all = redis.pcall("HKEYS", q.lease .. name)
    local has, counts, reply = {}, {}, {}
    for _, id in ipairs(all) do
      has[id] = id:sub(1, 1) == "m" or redis.call("HGET", q.lease .. name, id)
    end
    if #all > 0 and not redis.call("ZSCORE", q.timers, name) then
      found("endless", name)
      add(q, "timed", now, name)
    end
    for id, value in pairs(has) do
      local other = id:sub(1, 1) == "m" and id:sub(2) or "m" .. id
      if not has[other] then
        found("halved", name, id)
        add(q, "commands", { "HDEL", q.lease .. name, id })
      elseif other:sub(1, 1) == "m" then
        counts[value] = (counts[value] or 0) + 1
      end
    end
    for of, count in pairs(counts) do
      reply[#reply + 1], reply[#reply + 2] = of, count
    end
    return reply
  end

  local function timer(name)
    local kind, of = name:sub(1, 1), name:sub(2)
    local lost = kind:find("%d") and tonumber(redis.pcall("HLEN", q.lease .. name)) == 0
      or kind == "s" and redis.call("ZCARD", q.delays .. of) == 0
    if lost then
      found("timer", name)
      add(q, "untimed", name)
    end
    return { kind }
  end

  local function letter(id, text)
    local died, _, bytes, at = text:match("^(%d+) (%d+) (%d+) ()")
    local of = died and text:sub(at, at + bytes - 1)
    if of and not redis.call("ZSCORE", q.died_of .. of, id) then
      found("letter", of, id)
      add(q, "commands", { "ZADD", q.died_of .. of, died, id })
      add(q, "commands", { "ZADD", q.dead, "LT", died, of })
    end
  end

  -- Of a queue that has few, what there is of all facets, all leases and all timers, and what is counted,
  -- at one moment. Those that are named (f, l) may be listed nowhere.
  local function all(names)
    local facets, leases, timers, once = {}, {}, {}, { [""] = true }
    local listed = redis.call("HLEN", q.held) + redis.call("ZCARD", q.timers)
    listed = listed + redis.call("ZCARD", q.ready) + redis.call("ZCARD", q.parked)
    if listed + (tonumber(redis.call("HGET", q.held, "")) or 0) > 1000 then
      return { {}, {}, {}, {} }
    end
    local named = redis.call("HKEYS", q.held)
    for _, name in ipairs(names) do
      if name:sub(1, 1) == "f" then
        named[#named + 1] = name:sub(2)
      elseif not redis.call("ZSCORE", q.timers, name:sub(2)) then
        leases[#leases + 1] = lease(name:sub(2))
      end
    end
    for _, set in ipairs({ q.ready, q.parked }) do
      for _, name in ipairs(redis.call("ZRANGE", set, 0, -1)) do
        named[#named + 1] = name
      end
    end
    for _, name in ipairs(redis.call("ZRANGE", q.timers, 0, -1)) do
      timers[#timers + 1] = name:sub(1, 1)
      if name:find("^%d") then
        leases[#leases + 1] = lease(name)
      elseif name:sub(1, 1) == "s" then
        named[#named + 1] = name:sub(2)
      end
    end
    for _, name in ipairs(named) do
      facets[#facets + 1] = not once[name] and facet(name, true) or nil
      once[name] = true
    end
    local counts = redis.call("HMGET", q.clock, "waiting", "delayed", "holds")
    counts[4] = redis.call("HGET", q.held, "")
    for n = 1, 4 do
      counts[n] = tonumber(counts[n]) or 0
    end
    return { facets, leases, { { "all", unpack(timers) } }, counts }
  end

  return { facet = facet, lease = lease, timer = timer, letter = letter, all = all }
end
