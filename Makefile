.PHONY: help build test tools check fuzz bench soak interop browsers browsersatasterisk demo screenshots

# How often each fuzz target runs: some 20 s. A count, because a time that ends
# while an input runs is taken for a failure ("context deadline exceeded").
FUZZTIME ?= 60000x

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

build: ## Build bellhop, one static binary
	CGO_ENABLED=0 go build -trimpath -o bellhop ./cmd/bellhop

# The tests run on one processor: with more, two timers that fire at once in a
# synctest bubble can end the process with "ThreadSanitizer: CHECK failed"
# (https://go.dev/issue/78156, Go 1.26). Races are found all the same: the detector
# judges what is synchronized, not what coincides.
test: tools check ## Run all that CI runs; installs what the tests need
	go test -race -cpu 1 -timeout 1h ./...
	@$(MAKE) --no-print-directory fuzz

# SIPp for the tests of whole calls, Chromium for those of the page, a C compiler
# for the race detector.
tools:
	@command -v sipp >/dev/null && command -v chromium >/dev/null && command -v cc >/dev/null && exit; \
	install='apt-get update && apt-get install -y --no-install-recommends sip-tester chromium gcc libc6-dev'; \
	if [ "$$(id -u)" = 0 ]; then DEBIAN_FRONTEND=noninteractive sh -ec "$$install"; \
	else echo "The tests need SIPp, Chromium and a C compiler. As root, run: $$install"; exit 1; fi

check: ## Format, vet, lint, and the list of modules
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt would change:" $$unformatted; exit 1; }
	go vet ./...
	go vet -tags interop ./cmd/bellhop
	go tool staticcheck ./...
	go mod tidy -diff

fuzz: ## Run each fuzz target for FUZZTIME
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z]*' . | sed 's|/[^/]*:func | |' | sort | while read -r dir target; do \
		go test -vet=off -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$dir" || exit; \
	done

bench: ## Run the benchmarks
	go test -run '^$$' -bench . -benchmem ./...

soak: ## Take the receiver, the disk and bellhop itself away, flood it, and measure: 40 minutes
	go test -race -count 1 -v -run '^TestReceiverDown$$' ./cmd/bellhop -soak
	go test -count 1 -v -timeout 20m -run '^(TestKillLosesNoEvent|TestReceiversAreServedFairly|TestCallbackCostIsBounded)$$' ./notify -soak
	go test -count 1 -v -timeout 20m -run '^(TestDiskFullLong|TestStartOwing|TestReadersDelayNoCall|TestDrainEnds|TestNoPBX)$$' ./cmd/bellhop -soak
	go test -count 1 -v -timeout 20m -run '^TestMutationsBreakNothing$$' ./cmd/bellhop -soak -seed "$$(date +%s)"
	go test -count 1 -v -timeout 25m -run '^(TestFloodsDisturbNoCall|TestAFloodOfStrangers|TestTLSFloodsDelayNobody)$$' ./cmd/bellhop -soak

# PBX is the folder that sets up Asterisk and its phones, NETNS the network
# namespace in which everything runs: it has addresses and ports of its own.
NETNS ?= bellhop-interop
interop: ## Put bellhop before a real Asterisk and Kamailio; as root, with PBX=folder (testdata/README.md)
	@[ "$$(id -u)" = 0 ] && [ -x "$(PBX)/setup.sh" ] || { echo "make interop needs root, and PBX=folder: see testdata/README.md"; exit 1; }
	@command -v sipp >/dev/null && command -v kamailio >/dev/null && command -v ip >/dev/null && \
	command -v baresip >/dev/null && command -v linphonec >/dev/null && command -v stunnel4 >/dev/null && \
	command -v nft >/dev/null && command -v conntrack >/dev/null || \
	{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends sip-tester kamailio iproute2 baresip-core linphone-cli stunnel4 nftables conntrack; }
	cd "$(PBX)" && ./setup.sh
	@ip netns list | grep -qw $(NETNS) || ip netns add $(NETNS)
	@ip -n $(NETNS) link set lo up
	PBX="$(abspath $(PBX))" PBX_NETNS=$(NETNS) \
	go test -tags interop -exec "ip netns exec $(NETNS)" -run '^TestInterop' -count 1 -timeout 90m -v ./cmd/bellhop; \
	status=$$?; ip netns del $(NETNS); exit $$status

browsers: tools ## Let pages with JsSIP and SIP.js, which npm fetches, call each other; as root with PBX=folder at a real Asterisk too (testdata/README.md)
	@command -v npm >/dev/null && command -v npx >/dev/null || { echo "make browsers needs npm, which fetches JsSIP, SIP.js and esbuild"; exit 1; }
	@[ -z "$(PBX)" ] || { [ "$$(id -u)" = 0 ] && [ -x "$(PBX)/setup.sh" ]; } || { echo "make browsers with PBX=folder needs root, and a folder as for make interop: see testdata/README.md"; exit 1; }
	@phones=$$(mktemp -d) && trap 'rm -rf "$$phones"' EXIT && cp testdata/browsers/* "$$phones" && \
	(cd "$$phones" && npm install --no-audit --no-fund && npx esbuild phone.js --bundle --format=iife --minify --charset=ascii --outfile=bundle.js) && \
	export PHONES="$$phones/bundle.js" && \
	go test -tags interop -run '^TestBrowsers$$' -count 1 -timeout 60m -v ./cmd/bellhop && \
	{ [ -z "$(PBX)" ] || $(MAKE) --no-print-directory browsersatasterisk; }

# Asterisk offers no media at 127.0.0.0/8, so the namespace has another address.
browsersatasterisk:
	cd "$(PBX)" && ./setup.sh
	@ip netns list | grep -qw $(NETNS) || ip netns add $(NETNS)
	@ip -n $(NETNS) link set lo up && ip -n $(NETNS) addr replace 192.0.2.1/32 dev lo
	PBX="$(abspath $(PBX))" PBX_NETNS=$(NETNS) \
	go test -tags interop -exec "ip netns exec $(NETNS)" -run '^TestBrowsersAtAsterisk$$' -count 1 -timeout 60m -v ./cmd/bellhop; \
	status=$$?; ip netns del $(NETNS); exit $$status

SCREENSHOTS ?= screenshots
screenshots: tools ## Write pictures of every view of the page to SCREENSHOTS
	go test -count 1 -run '^TestTakeScreenshots$$' ./cmd/bellhop -screenshots "$(abspath $(SCREENSHOTS))"

demo: ## Place calls through bellhop, and show every callback
	go run ./cmd/bellhop demo
