"""Every URL on one page, each with the rule that says who may call it."""

from aiohttp import web

from panel.caller import Rule
from panel.health.handlers import HealthHandlers
from panel.middleware import RULES, Handler
from panel.sessions.handlers import SessionHandlers
from panel.users.handlers import UserHandlers

Route = tuple[str, str, Handler, Rule]


def routes(sessions: SessionHandlers, users: UserHandlers, health: HealthHandlers) -> list[Route]:
    anyone, user, admin = Rule.ANYONE, Rule.USER, Rule.ADMIN
    return [
        ("GET", "/healthz", health.healthz, anyone),
        ("GET", "/readyz", health.readyz, anyone),
        ("GET", "/metrics", health.metrics, Rule.SCRAPER),
        ("GET", "/auth/users", users.list, admin),
        ("POST", "/auth/users", users.create, admin),
        ("POST", "/sessions", sessions.create, user),
        ("GET", "/sessions", sessions.list, user),
        ("GET", "/sessions/{id}", sessions.show, user),
        ("DELETE", "/sessions/{id}", sessions.delete, user),
        ("POST", "/sessions/{id}/query", sessions.query, user),
        ("GET", "/sessions/{id}/events", sessions.events, user),
        ("POST", "/sessions/{id}/interrupt", sessions.interrupt, user),
        ("DELETE", "/sessions/{id}/queue/{uuid}", sessions.take_back, user),
        ("POST", "/sessions/{id}/answers", sessions.answer, user),
    ]


def install(app: web.Application, table: list[Route]) -> None:
    rules = {}
    for method, path, handler, rule in table:
        for verb in ("GET", "HEAD") if method == "GET" else (method,):
            rules[app.router.add_route(verb, path, handler)] = rule
    app[RULES] = rules
