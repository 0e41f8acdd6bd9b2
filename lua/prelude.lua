-- prelude.lua: the keys, named once, and what all scripts share: a queue, its settings, its turns. It
-- stands in front of the body of each of them; behind it, the parts that the script names.
--
-- KEYS is the list of the namespace, then one list for each queue of the call, always in this
-- order; src/keys.rs builds it. ARGV[1] is the same in every script. What a script changes in a
-- queue is gathered in the table that open() gives, and written by close(): all checks come before
-- the first write.
local routes = KEYS[1] -- hash: queue -> pattern; ":version" -> version of the routes;
-- ":gone:<queue>" -> the one that removed it, in the first partition, for an hour
local seq = KEYS[2] -- integer: the last number drawn, for message ids and for leases
local layout = KEYS[3] -- integer: layout of these keys
local receipts = KEYS[4] -- then a facet and the key of a delivery: what deliver.lua says of it

local MOST_BYTES = 524288 -- of messages that one call moves; one that is larger is moved alone
-- One turn at weight 1, in the unit of turns that are stored: a 2^20th part. So most of them are
-- whole numbers, which are written and read in less than half the time.
local TURN = 1048576
-- The clock of a queue (see choose and arrive), whether a message with a cost or an end of its own may
-- be waiting (special: 1), and how many wait: it starts anew when none does. Then what it counts from
-- its beginning.
local FIELDS =
  { "floor", "arrival", "early", "special", "waiting", "delivered", "served", "acked", "came_back" }
-- What else it counts, most calls neither need nor change: "delayed" messages and "holds" of facets, and
-- from its beginning "refused", "expired", "died", "dropped", "purged".
local NONE = {} -- of whatever it is
local WINDOW = 5000 -- ms: a worker that waits looks by itself when that has passed

local now = tonumber(ARGV[1]) -- ms since 1970; 0: by the clock of Redis
if now == 0 then
  local time = redis.call("TIME") -- Read once: in 7.0 it moves while a script runs.
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Reads settings: "<name>=<number> ...". What they do not say is as in others.
local function options(text, others)
  local set = {}
  for name, value in pairs(others or NONE) do
    set[name] = value
  end
  for name, value in text:gmatch("(%S+)=(%S+)") do
    set[name] = tonumber(value)
  end
  return set
end

-- Opens queue i of the call: reads its clock, and meets a key of a wrong type before anything is
-- written. (Whoever writes timers, leases and held reads them before.)
local function open(i)
  local before = 4 + (i - 1) * 14
  local q = {
    clock = KEYS[before + 1], -- hash: FIELDS; "closed" by destroy
    ready = KEYS[before + 2], -- zset: facet -> its turn; only facets that can be served now
    parked = KEYS[before + 3], -- zset: facet with messages behind a gate -> the turn it left with
    idle = KEYS[before + 4], -- zset: facet in debt, with none waiting -> the turn it left with
    timers = KEYS[before + 5], -- zset: what has a time -> that time, ms. A lease, by its number: its
    -- end. "s<facet>": its next delayed message. "h<facet>": the end of its hold. "t<facet>": when
    -- its rate has all been regained; "r<facet>": enough of it for one message. "a": when the
    -- oldest dead letter is too old
    lease = KEYS[before + 6], -- then a lease: hash: id -> facet, "m<id>" -> message. It is named by
    -- its number; what was extended apart from others by "<number>/<id>"
    held = KEYS[before + 7], -- hash: facet -> how many of its messages are leased; "" -> all
    settings = KEYS[before + 8], -- hash: facet -> its settings; "" -> those of the queue
    wake = KEYS[before + 9], -- zset: the marker, while something can be served, or somebody shall look
    letters = KEYS[before + 10], -- hash: id of 16 digits -> dead letter: "<died at, ms> <cause> <bytes
    -- of the facet> <facet><message>"
    dead = KEYS[before + 11], -- zset: facet with dead letters -> when the oldest died, ms
    died_of = KEYS[before + 12], -- then a facet: zset: its dead letter, by that id -> when it died, ms
    delays = KEYS[before + 13], -- then a facet: zset: delayed message, its id of 16 digits -> when
    -- it is due, ms
    list = KEYS[before + 14], -- then a facet: list of its waiting messages, oldest first, each
    -- "<id> <attempts> <delivered at, ms> <bytes of the topic>[,<letter><value> ..] <topic><body>":
    -- c: cost. x: ms at which it expires. d: ms at which it was due. k: its crashes. h: bytes of headers, which stand before
    -- the body. f: bytes of the reason of its last failure, which stands before the body, too
    entering = {}, -- turn and facet, in turn, of those that become ready
    owing = {}, -- turn and facet, in turn, of those that become idle
    drained = {}, -- facets that are taken out of ready
    leaving = {}, -- facets that are taken out of idle
    leases = {}, -- lease -> its size, and what is gone from it: id -> facet
    loads = {}, -- facet -> how many more of its messages are leased
    dirty = false, -- whether there is something in the next two, or what is due has been done
    returned = NONE, -- facet -> messages that go back to its front, the foremost last
    appended = NONE, -- facet -> messages that go to its end
    -- Only where there are any: coming and freed, facets that get something to serve, and those whose
    -- gate may have opened (comes: facet -> which of these); parking, as entering, and resuming, as
    -- leaving, of those that are parked; timed, time and name, in turn, and untimed, names, of what
    -- joins and leaves timers; charges, facet -> the cost by which its turn moves; holding, facet ->
    -- until when it is held, ms; commands, others that close() is to run before it takes anything
    -- away; known, facet -> its settings.
  }
  local clock = redis.call("HMGET", q.clock, "closed", "holds", unpack(FIELDS))
  q.closed, q.holds, q.before = clock[1], tonumber(clock[2]) or 0, {}
  for n, field in ipairs(FIELDS) do
    local value = tonumber(clock[n + 2]) or 0
    q[field], q.before[n] = value, value
  end
  q.facets = redis.call("ZCARD", q.ready)
  q.debtors = redis.call("ZCARD", q.idle)
  q.aside = redis.call("ZCARD", q.parked)
  q.marked = redis.call("ZCARD", q.wake) > 0
  q.configured = redis.call("HLEN", q.settings) > 0
  local own = q.configured and redis.call("HGET", q.settings, "")
  q.own = own and options(own) or NONE
  q.paused = q.own.stopped == 1
  return q
end

-- Returns the error that there is no such queue, if there is none.
local function missing(q, name)
  local holds = q.facets + q.aside > 0
    or redis.call("HEXISTS", q.held, "") == 1
    or tonumber(redis.call("HGET", q.clock, "delayed") or 0) > 0
    or redis.call("HLEN", q.letters) > 0
  if q.closed or not holds and redis.call("HEXISTS", routes, name) == 0 then
    return redis.error_reply("NOQUEUE there is no queue " .. name)
  end
end

-- Returns the settings of facets. Where one says nothing, those of the queue hold.
local function settings(q, facets)
  local all = {}
  local texts = q.configured and redis.call("HMGET", q.settings, unpack(facets)) or NONE
  q.known = q.known or {}
  for i, facet in ipairs(facets) do
    local set = q.known[facet] or texts[i] and options(texts[i], q.own) or q.own
    q.known[facet], all[i] = set, set
  end
  return all
end

-- Adds one value, or two, to a list of a queue that is only there when there is anything in it.
local function add(q, name, value, and_value)
  local list = q[name] or {}
  q[name], list[#list + 1] = list, value
  list[#list + 1] = and_value
end

-- Returns what keeps a facet from being served, if anything does: 1 a pause, 2 a hold, 3 that as many
-- are leased as may be, 4 its rate; and until when, in ms, or -1. Then how many are leased, and when
-- its rate is all regained, where these are limited. A key that is in the way closes no gate: something
-- may have been taken already.
local function gate(q, facet, set)
  if set.paused == 1 then
    return 1, -1
  end
  local held = q.holding and q.holding[facet]
    or q.holds > 0 and tonumber(redis.pcall("ZSCORE", q.timers, "h" .. facet))
  if held and held > now then
    return 2, held
  end
  local load, full
  if set.most_leased then
    load = (tonumber(redis.pcall("HGET", q.held, facet)) or 0) + (q.loads[facet] or 0)
    if load >= set.most_leased then
      return 3, -1, load
    end
  end
  if set.rate then
    full = tonumber(redis.pcall("ZSCORE", q.timers, "t" .. facet)) or 0
    local most = now + set.burst * set.period / set.rate
    if full > most + 1 then -- Its rate was raised.
      full = most
      add(q, "timed", full, "t" .. facet)
    end
    local opens = full - (set.burst - 1) * set.period / set.rate
    if opens >= now + 1 then
      return 4, opens, load, full
    end
  end
  return nil, nil, load, full
end

-- Notes that a facet gets something to serve ("coming"), or that its gate may have opened ("freed").
local function comes(q, facet, how)
  q.comes = q.comes or {}
  local noted = q.comes[facet]
  if not noted or noted == "freed" and how == "coming" then
    q.comes[facet] = how
    add(q, how, facet)
  end
end

-- Gives turns to those that come. Newcomers go to the end of the round, but every regular service has
-- earned one place at the front. A facet that left in debt goes on where it left. One whose gate is
-- closed is parked, and keeps that for when it opens.
local function arrive(q)
  if not q.coming and not q.freed then
    return
  end
  local facets = q.coming or {}
  local coming = #facets
  for i, facet in ipairs(q.aside > 0 and q.freed or NONE) do
    facets[coming + i] = facet
  end
  q.coming, q.freed, q.comes = nil, nil, nil
  if #facets == 0 then
    return
  end
  local function of(there, command, key)
    return there and redis.call(command, key, unpack(facets)) or NONE
  end
  local debts = of(q.debtors > 0, "ZMSCORE", q.idle)
  local kept = of(q.aside > 0, "ZMSCORE", q.parked)
  local sets = q.configured and settings(q, facets) or NONE
  local gates = q.configured or q.holds > 0
  local tick = math.max(1, q.floor * 2 ^ -50)
  for i, facet in ipairs(facets) do
    local debt, left = tonumber(debts[i]), tonumber(kept[i])
    local set = sets[i] or NONE
    if i <= coming or left then
      if debt then
        q.leaving[#q.leaving + 1] = facet
      end
      local closed, opens
      if gates then
        closed, opens = gate(q, facet, set)
      end
      if closed then
        add(q, "parking", debt or left or 0, facet)
        q.aside = q.aside + (left and 0 or 1)
        if closed == 4 then
          add(q, "timed", opens, "r" .. facet)
        end
      else
        -- At the floor, one that was parked is about to be served.
        local stays = debt and debt > q.floor or not debt and left and left >= q.floor
        if left then
          add(q, "resuming", facet)
          q.aside = q.aside - 1
        end
        local turn = debt or left
        q.early = math.min(q.early, q.facets)
        if not stays and q.early >= 1 then
          turn = q.floor - q.early * tick
          q.early = q.early - 1
        elseif not stays then
          q.arrival = math.max(q.arrival, q.floor) + tick
          turn = q.arrival + TURN / (set.weight or 1)
        end
        q.entering[#q.entering + 1], q.entering[#q.entering + 2] = turn, facet
        q.facets = q.facets + 1
      end
      q.moved = true
    end
  end
end

-- Notes that a message has left its lease.
local function gone(q, lease, id, facet)
  q.leases[lease].gone[id] = facet
  q.loads[facet] = (q.loads[facet] or 0) - 1
  if q.aside > 0 then
    comes(q, facet, "freed")
  end
end

-- Writes what was gathered. A queue with nothing waiting starts its clock anew.
local function close(q)
  -- Numbers go as text: Redis would take longer to make it.
  local function write(command, key, list)
    if #list == 0 then
      return list
    end
    for i, value in ipairs(list) do
      if type(value) == "number" then
        list[i] = string.format(value % 1 == 0 and value < 1e15 and "%d" or "%.17g", value)
      end
    end
    redis.call(command, key, unpack(list))
    return {}
  end
  for facet, cost in next, q.charges or NONE do
    local step, found = cost * TURN / (settings(q, { facet })[1].weight or 1), false
    for _, set in ipairs({ q.ready, q.parked, q.idle }) do
      local turn = tonumber(redis.call("ZSCORE", set, facet))
      if turn then -- What was charged before the clock began anew is not owed any more.
        local least = step < 0 and math.min(turn, 0) or turn
        found = write("ZADD", set, { math.max(turn + step, least), facet })
      end
    end
    if not found and step > 0 and q.facets + q.aside > 0 then
      write("ZADD", q.idle, { q.floor + step, facet })
    end
  end
  arrive(q)
  if q.dirty then
    for facet, messages in pairs(q.returned) do
      write("LPUSH", q.list .. facet, messages)
    end
    for facet, messages in pairs(q.appended) do
      write("RPUSH", q.list .. facet, messages)
    end
  end
  for _, command in ipairs(q.commands or NONE) do
    redis.call(unpack(command))
  end
  local empty = q.moved and q.facets + q.aside == 0
  if empty then -- What these are about goes as a whole.
    q.owing, q.drained, q.leaving = {}, {}, {}
  end
  q.entering = write("ZADD", q.ready, q.entering)
  if q.parking then
    write("ZADD", q.parked, q.parking)
  end
  q.owing = write("ZADD", q.idle, q.owing)
  q.drained = write("ZREM", q.ready, q.drained)
  q.leaving = write("ZREM", q.idle, q.leaving)
  if q.resuming then
    write("ZREM", q.parked, q.resuming)
  end
  if q.untimed then
    write("ZREM", q.timers, q.untimed)
  end
  for i = 2, q.timed and #q.timed or 0, 2 do -- Those who wait know of no time that is set only now.
    q.alarm = q.alarm or q.timed[i]:find("^[hrs]") and tonumber(q.timed[i - 1]) < now + WINDOW
  end
  write("ZADD", q.timers, q.timed or NONE)
  local over, keys = {}, {}
  for lease, of in pairs(q.leases) do
    local gone = {}
    for id in pairs(of.gone) do
      gone[#gone + 1] = id
    end
    if #gone == of.size then
      over[#over + 1], keys[#keys + 1] = lease, q.lease .. lease
    else
      for i = 1, #gone do
        gone[#gone + 1] = "m" .. gone[i]
      end
      write("HDEL", q.lease .. lease, gone)
    end
  end
  if #over > 0 then
    redis.call("UNLINK", unpack(keys))
    redis.call("ZREM", q.timers, unpack(over))
  end
  if next(q.loads) then
    local all, facets, befores, set, unset, texts = 0, {}, {}, {}, {}, {}
    for facet, load in pairs(q.loads) do
      facets[#facets + 1], all = facet, all + load
    end
    local held = tonumber(redis.call("HGET", q.held, "")) or 0
    facets[#facets + 1], q.loads[""] = "", all
    if held > 0 and held + all <= 0 then
      redis.call("UNLINK", q.held)
      facets = {}
    elseif held > 0 then
      befores = redis.call("HMGET", q.held, unpack(facets))
    end
    for i, facet in ipairs(facets) do
      local load = (tonumber(befores[i]) or 0) + q.loads[facet]
      if load > 0 then
        texts[load] = texts[load] or string.format("%d", load)
        set[#set + 1], set[#set + 2] = facet, texts[load]
      else
        unset[#unset + 1] = facet
      end
    end
    write("HSET", q.held, set)
    write("HDEL", q.held, unset)
  end
  if q.trims then
    if not pcall(q.trims, q) then -- A key in its way costs no message; it is tried again.
      redis.call("ZADD", q.timers, now + 60000, "a")
    end
  end
  q.leases, q.loads, q.returned, q.appended, q.dirty = {}, {}, NONE, NONE, false
  q.parking, q.resuming, q.untimed, q.timed = nil, nil, nil, nil
  q.charges, q.commands, q.trims = nil, nil, nil
  if empty then
    redis.call("UNLINK", q.ready, q.idle)
    redis.call("HDEL", q.clock, unpack(FIELDS, 1, 5))
    for n = 1, 5 do
      q[FIELDS[n]], q.before[n] = 0, 0
    end
  end
  local changed = {}
  for n, field in ipairs(FIELDS) do
    local value = q[field]
    if value ~= q.before[n] then
      changed[#changed + 1], changed[#changed + 2], q.before[n] = field, value, value
    end
  end
  write("HSET", q.clock, changed)
  local servable = q.facets > 0 and not q.paused
  if not q.marked and (servable and q.moved or q.alarm) then
    redis.call("ZADD", q.wake, 0, "marker")
    q.marked = true
  elseif q.marked and q.moved and not servable and not q.alarm then
    local first = q.looked and NONE or redis.call("ZRANGE", q.timers, 0, 15, "WITHSCORES")
    for i = 1, #first, 2 do
      if first[i]:find("^[hrs]") and first[i + 1] - now < WINDOW then
        return -- It is there for that.
      end
    end
    redis.call("UNLINK", q.wake)
    q.marked = false
  end
end
