-- Comes before each script. An error of a command ends the script as that error: Redis 6.2 would wrap it otherwise, and
-- hide its code. What a script wrote before stays written, so each of them does first what can fail.

local failure

-- Ends the script with an error reply.
local function fail(reply)
    -- Redis 6.2 puts a place before errors that come from itself.
    failure = redis.error_reply((string.gsub(reply.err, '^@user_script: %d+: %-?', '')))
    error('failed', 0)
end

local function call(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then
        fail(reply)
    end
    return reply
end

-- Runs the script, and returns its value or the error that ended it. `error` alone would not do: Redis 7 makes text of what it
-- is given.
local function run(script)
    local done, value = pcall(script)
    if done then
        return value
    end
    return failure or redis.error_reply('ERR ' .. tostring(value))
end

-- Whether a message is still with a consumer, by the hand-over that the consumer knows.
local function holds(queue, group, consumer, id, deliveries)
    local pending = call('XPENDING', queue, group, id, id, 1, consumer)[1]
    return pending ~= nil and pending[4] == tonumber(deliveries)
end

-- Whether any consumer has a message under a lease that has not ended.
local function is_held(queue, group, id, lease)
    local pending = call('XPENDING', queue, group, id, id, 1)[1]
    return pending ~= nil and pending[3] < tonumber(lease)
end

-- The server's time in milliseconds: the clocks of workers may differ.
local function now()
    local time = call('TIME')
    return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The fields of an entry, or nil if there is none of this id.
local function fields_of(stream, id)
    local entry = call('XRANGE', stream, id, id)[1]
    return entry and entry[2]
end

-- Fields without those named in `dropped`, and then those of `added`.
local function changed(fields, dropped, added)
    local kept = {}
    for at = 1, #fields, 2 do
        if not dropped[fields[at]] then
            kept[#kept + 1] = fields[at]
            kept[#kept + 1] = fields[at + 1]
        end
    end
    for at = 1, #added do
        kept[#kept + 1] = added[at]
    end
    return kept
end

-- The texts that a script may hand to one command: Lua's stack ends at 8,000. `convert.rs` says more.
local MOST_TEXTS = 6100

-- Arguments: a number, and so many texts from there. Returns them, and the place behind them.
local function list_at(at)
    local list = {}
    local count = tonumber(ARGV[at])
    for number = 1, count do
        list[number] = ARGV[at + number]
    end
    return list, at + count + 1
end

local function set_of(list)
    local set = {}
    for _, text in ipairs(list) do
        set[text] = true
    end
    return set
end

-- Forgets a message for good.
local function forget(queue, group, id)
    call('XACK', queue, group, id)
    call('XDEL', queue, id)
end

-- Names and values in turns, as a table.
local function table_of(flat)
    local named = {}
    for at = 1, #flat, 2 do
        named[flat[at]] = flat[at + 1]
    end
    return named
end

-- What the server knows of our group, as a table; nil if there is no such group. And the names of all others.
local function group_of(queue, group)
    local ours, others = nil, {}
    for _, flat in ipairs(call('XINFO', 'GROUPS', queue)) do
        local known = table_of(flat)
        if known.name == group then
            ours = known
        else
            others[#others + 1] = known.name
        end
    end
    return ours, others
end

-- Refuses a queue that is not there.
local function require_queue(queue, group)
    if call('EXISTS', queue) == 0 then
        fail(redis.error_reply('NOGROUP No such key'))
    end
    local ours, others = group_of(queue, group)
    if not ours then
        fail(redis.error_reply('NOGROUP No such consumer group'))
    end
    return ours, others
end

-- What a message becomes, by the arguments from `at` on: names of fields to drop, fields to add, and '1' if these are all of
-- it. Nil if the message is gone.
local function next_fields(queue, id, at)
    local dropped, added
    dropped, at = list_at(at)
    added, at = list_at(at)
    if ARGV[at] == '1' then
        return added
    end
    local fields = fields_of(queue, id)
    return fields and changed(fields, set_of(dropped), added)
end
