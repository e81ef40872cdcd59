-- Puts a message aside that is with this consumer, until it is due: in one step, so that it is neither lost nor there twice.
--
-- KEYS: queue, delayed, delayed bodies.
-- ARGV: group, consumer, id, number of its hand-over, pause in ms, the names of fields to drop and the fields to add, each as
-- a number and so many texts. Returns 1, or 0 if it was lost or deleted.

return run(function()
    local queue, delayed, bodies = KEYS[1], KEYS[2], KEYS[3]
    local group, consumer, id, pause = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
    if not holds(queue, group, consumer, id, ARGV[4]) then
        return 0
    end
    local fields = next_fields(queue, id, 6)
    if not fields then
        return 0
    end
    -- All of this can fail, for want of memory; a body that nothing refers to is then left at most.
    if pause > 0 then
        local body = call('XADD', bodies, '*', unpack(fields))
        call('ZADD', delayed, now() + pause, body)
    else
        call('XADD', queue, '*', unpack(fields))
    end
    forget(queue, group, id)
    return 1
end)
