-- Hands messages over to a consumer, up to `room`: those whose lease has ended, and then new ones.
--
-- KEYS: queue, delayed, delayed bodies, and the inbox if there is one.
-- ARGV: group, consumer, room, lease in ms or '' to look for no ended leases, how many delayed messages to move at most.
--
-- Returns messages whose lease had ended ({id, fields, deliveries}), new messages ({id, fields}), the time until the next
-- delayed message in ms (or -1), the number of messages that are with a consumer, and what kept messages back, or nothing.
--
-- - A message is with one consumer at a time: a lease that was renewed in time is not taken away.
-- - A message with an ended lease was handed over once more, and is counted.
-- - An entry that was deleted or trimmed while it was with a consumer is forgotten: nobody could settle it.
-- - A delayed message is moved when it is due by the server's clock. It is in the queue before it is gone elsewhere.
-- - An inbox keeps what there is no room for, so its length says how much waits.
-- - A server without memory for one of these moves still hands over what is in the queue.

return run(function()
    local queue, delayed, bodies, inbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
    local group, consumer, room, lease, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
    local held_back = ''

    -- Adds an entry; what could not be added stays where it was.
    local function add(fields)
        local added = redis.pcall('XADD', queue, '*', unpack(fields))
        if type(added) == 'table' and added.err then
            held_back = added.err
            return false
        end
        return true
    end

    -- Refuses a queue that is not there, or whose group is not: `XADD` would make it.
    local pending = call('XPENDING', queue, group)[1]

    local now = now()
    for _, id in ipairs(call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, most)) do
        -- Others can write to these keys: what is not of our making names no entry.
        local found = redis.pcall('XRANGE', bodies, id, id)
        local fields = not found.err and found[1] and found[1][2]
        if fields and #fields > MOST_TEXTS then
            fields = nil
        end
        if fields and not add(fields) then
            break
        end
        if fields then
            call('XDEL', bodies, id)
        end
        call('ZREM', delayed, id)
    end

    local again = {}
    if lease ~= '' and pending > 0 then
        -- `XAUTOCLAIM` would do the same, but says neither how often an entry was handed over nor, before 7.0, which was
        -- deleted, and looks at so few entries at a time that it has to be asked again and again.
        for _, ended in ipairs(call('XPENDING', queue, group, 'IDLE', lease, '-', '+', room)) do
            local id, deliveries = ended[1], ended[4]
            local entry = call('XCLAIM', queue, group, consumer, lease, id)[1]
            if entry and entry[2] then
                again[#again + 1] = {id, entry[2], deliveries + 1}
            else
                call('XACK', queue, group, id)
            end
        end
    end

    local new = {}
    room = room - #again
    if room > 0 then
        local read = call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', room, 'STREAMS', queue, '>')
        new = read and read[1][2] or {}
        if inbox and #new < room then
            for _ = 1, room - #new do
                local item = call('LINDEX', inbox, -1)
                if not item or not add({'body', item}) then
                    break
                end
                call('RPOP', inbox)
            end
            read = call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', room - #new, 'STREAMS', queue, '>')
            for _, entry in ipairs(read and read[1][2] or {}) do
                new[#new + 1] = entry
            end
        end
    end

    local next = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
    local wait = next and math.max(math.ceil(tonumber(next) - now), 0) or -1
    return {again, new, wait, pending, held_back}
end)
