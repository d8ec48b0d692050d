#!/bin/sh
# Does a service of this node answer? What keepalived and Pacemaker ask; the same questions as Heartline's probes.
case $1 in
dns) timeout 1 kdig @127.0.0.1 +short +retry=0 +time=1 www.lab A | grep -qx 10.77.0.103 ;;
radius) echo 'Message-Authenticator = 0x00' | timeout 1 radclient -q -r 1 -t 1 127.0.0.1:18121 status labsecret ;;
web) timeout 1 curl --silent --fail --output /dev/null http://127.0.0.1/ ;;
sip) timeout 1 sipsak -H 127.0.0.1 -s sip:lab@127.0.0.1:5060 >/dev/null ;;
*) exit 2 ;;
esac
