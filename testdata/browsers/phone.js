// The script of a page that is a phone, with JsSIP or SIP.js. The tests of browsers use
// phone, whichever library it is made of.

import JsSIP from "jssip";
import {Web} from "sip.js";

const host = "pbx.example";
const constraints = {audio: true, video: false};
const media = {mediaConstraints: constraints, pcConfig: {iceServers: []}};

// start makes the phone of an extension and registers it.
window.start = (library, extension, url) => {
	window.phone = {
		registrations: 0, // REGISTER requests that were accepted
		connected: false,
		answers: true, // calls at once
		calls: [],     // in the order in which they came or were placed
		last: () => phone.calls.at(-1),
	};
	({JsSIP: startJsSIP, "SIP.js": startSIPjs})[library](extension, url);
};

// addCall adds a call to the phone. connection returns its RTCPeerConnection.
function addCall(methods, connection) {
	const call = {
		state: "ringing", // "up", "ended"
		held: false,
		referred: "", // status of the call to the target of a transfer
		packets: 0,   // of voice that have arrived
		...methods,
	};
	setInterval(async () => {
		(await connection()?.getStats())?.forEach(s => { if (s.type === "inbound-rtp") call.packets = s.packetsReceived; });
	}, 100);
	phone.calls.push(call);
	return call;
}

function startJsSIP(extension, url) {
	const ua = new JsSIP.UA({
		sockets: [new JsSIP.WebSocketInterface(url)], uri: `sip:${extension}@${host}`, password: "pw" + extension,
		connection_recovery_min_interval: 1, connection_recovery_max_interval: 1,
	});
	ua.on("connected", () => phone.connected = true);
	ua.on("disconnected", () => phone.connected = false);
	ua.on("registered", () => phone.registrations++);
	ua.on("newRTCSession", ({session, originator}) => {
		const refer = (target, options) => session.refer(target, {...options, eventHandlers: {
			accepted: e => call.referred = e.status_line.status_code,
			failed: e => call.referred = e.status_line.status_code,
		}});
		const call = addCall({
			session,
			answer: () => session.answer(media),
			hangUp: () => session.terminate(),
			hold: () => session.hold({}, () => call.held = true),
			resume: () => session.unhold({}, () => call.held = false),
			transfer: number => refer(`sip:${number}@${host}`),
			transferTo: other => refer(other.session.remote_identity.uri, {replaces: other.session}),
		}, () => session.connection);
		session.on("confirmed", () => call.state = "up");
		session.on("ended", () => call.state = "ended");
		session.on("failed", () => call.state = "ended");
		if (originator === "remote" && phone.answers) call.answer();
	});
	phone.call = number => ua.call(`sip:${number}@${host}`, media);
	ua.start();
}

function startSIPjs(extension, url) {
	const callOf = session => phone.calls.find(c => c.session === session);
	const manager = new Web.SessionManager(url, {
		aor: `sip:${extension}@${host}`,
		autoStop: false, // it would hang up when the page is closed
		media: {constraints, remote: () => ({audio: document.createElement("audio")})},
		registererRegisterOptions: {requestDelegate: {onAccept: () => phone.registrations++}},
		userAgentOptions: {
			authorizationUsername: extension, authorizationPassword: "pw" + extension,
			sessionDescriptionHandlerFactoryOptions: {peerConnectionConfiguration: {iceServers: []}},
		},
		delegate: {
			onServerConnect: () => phone.connected = true,
			onCallCreated: session => {
				const refer = target => manager.transfer(session, target, {onNotify: n => {
					n.accept();
					const [, status] = /^SIP\/2.0 (\d+)/.exec(n.request.body);
					if (status >= 200) call.referred = +status;
				}});
				const call = addCall({
					session,
					answer: () => manager.answer(session),
					hangUp: () => manager.hangup(session),
					hold: () => manager.hold(session),
					resume: () => manager.unhold(session),
					transfer: number => refer(`sip:${number}@${host}`),
					transferTo: other => refer(other.session),
				}, () => session.sessionDescriptionHandler?.peerConnection);
			},
			onCallReceived: session => { if (phone.answers) manager.answer(session); },
			onCallAnswered: session => callOf(session).state = "up",
			onCallHold: (session, held) => callOf(session).held = held,
			onCallHangup: session => callOf(session).state = "ended",
		},
	});
	// SessionManager ends its calls when it loses the connection. A phone that keeps them
	// connects again on its own.
	const reconnect = () => manager.userAgent.reconnect().catch(() => setTimeout(reconnect, 1000));
	manager.userAgent.delegate.onDisconnect = error => {
		phone.connected = false;
		if (error) reconnect();
	};
	phone.call = number => manager.call(`sip:${number}@${host}`);
	manager.connect().then(() => manager.register());
}
