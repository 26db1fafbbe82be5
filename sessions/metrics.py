"""What is counted at work; the panel shows it to the scraper."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FIRST_EVENT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.live = Gauge(
            "orchestrator_claude_processes", "Resident Claude processes.", registry=registry
        )
        self.running = Gauge("orchestrator_turns_running", "Turns at work.", registry=registry)
        self.waiting = Gauge(
            "orchestrator_turns_waiting", "Turns waiting for a place.", registry=registry
        )
        self.first_event = Histogram(
            "orchestrator_turn_first_event_seconds",
            "From the prompt being written to the first event.",
            buckets=FIRST_EVENT,
            registry=registry,
        )
        self.turns = Counter(
            "orchestrator_turns", "Turns that ended.", ["outcome"], registry=registry
        )
        self.starts = Counter(
            "orchestrator_claude_starts", "Claude processes started.", registry=registry
        )
        self.evictions = Counter(
            "orchestrator_claude_evictions",
            "Resident processes ended.",
            ["reason"],
            registry=registry,
        )
        self.errors = Counter(
            "orchestrator_claude_errors", "Turns that failed.", ["code"], registry=registry
        )
        self.unknown = Counter(
            "orchestrator_claude_unknown_messages",
            "Lines of a kind that is not known here.",
            registry=registry,
        )
        self.loop_lag = Gauge(
            "orchestrator_event_loop_lag_seconds",
            "How late the last tick of the event loop was.",
            registry=registry,
        )
