-- Publish the message of a periodic entry that is due, unless that was done, or another beat leads by now.
--
-- ARGV[1] to ARGV[7]  as publish.lua      ARGV[8]  beat
-- ARGV[9]  entry                          ARGV[10]  when it was due, s
-- returns  as publish.lua
--
-- Refused as a whole by a Redis that is full: the first write needs memory.
--@include _due

if not is_to_be_sent(ARGV[8], ARGV[9], ARGV[10]) then return '' end
--@include publish
