-- Orthanc sends every instance that it receives on to cxrfind. In orthanc.json:
--   "DicomModalities": { "cxrfind": { "AET": "CXRFIND", "Host": "127.0.0.1", "Port": 11112, "AllowEcho": true } },
--   "LuaScripts": [ "/etc/orthanc/orthanc-forward.lua" ]
-- The instance is sent as Orthanc holds it, in its own transfer syntax; failed jobs can be resubmitted in Orthanc.
function OnStoredInstance(instanceId, tags, metadata, origin)
  -- what came from cxrfind itself (C-MOVE to Orthanc) is not sent back
  if origin["RemoteAet"] ~= "CXRSIMILAR" then
    SendToModality(instanceId, "cxrfind")
  end
end
