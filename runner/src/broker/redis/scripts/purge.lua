-- Deletes messages that no consumer has, some of them at a time.
--
-- KEYS: queue, delayed, delayed bodies, and the inbox if there is one. ARGV: group, lease in ms.
-- Returns how many it has deleted; 0 when there is nothing left.

return run(function()
    local queue, delayed, bodies, inbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
    local group, lease = ARGV[1], ARGV[2]
    local ours = require_queue(queue, group)
    local deleted = 0
    for _ = 1, 100 do
        -- Few at a time, since Lua gets their bodies too.
        local entries = call('XRANGE', queue, '(' .. ours['last-delivered-id'], '+', 'COUNT', 10)
        for _, entry in ipairs(entries) do
            deleted = deleted + call('XDEL', queue, entry[1])
        end
        if #entries < 10 then
            break
        end
    end
    for _, ended in ipairs(call('XPENDING', queue, group, 'IDLE', lease, '-', '+', 1000)) do
        call('XACK', queue, group, ended[1])
        deleted = deleted + call('XDEL', queue, ended[1])
    end
    deleted = deleted + call('ZCARD', delayed)
    call('DEL', delayed, bodies)
    if inbox then
        deleted = deleted + call('LLEN', inbox)
        call('DEL', inbox)
    end
    return deleted
end)
