"""A frontend's answers to its clients: who waited for it, what it brought, and how long it took.

What was answered together goes out together: one by one only where a request has a span of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.replica.nbd.client import Client
from services.replica.nbd.felt import Felt
from services.replica.nbd.in_flight import InFlight, Split
from services.replica.nbd.pieces import cut_read, cut_status
from services.replica.nbd.protocol import NbdRequest
from services.replica.nbd.runs import Reads, Writes
from services.replica.nbd.wire import Command
from services.replica.replication.frontend import Answer, AnswerMany, AnswerReads, AnswerWrites, Apart

if TYPE_CHECKING:
    from services.replica.nbd.frontend import Frontend


class Answers:
    """Of one volume."""

    def __init__(self, frontend: Frontend, in_flight: InFlight, felt: Felt, tell_felt: Callable[[int], None]):
        """`tell_felt(now_ns)`: there may be something to tell."""
        self._frontend = frontend
        self._in_flight = in_flight
        self._asked, self._runs = in_flight.asked, in_flight.runs
        self._writes, self._contents = in_flight.writes, in_flight.contents
        self._extents, self._traced = in_flight.extents, in_flight.traced
        self._felt = felt
        self._tell_felt = tell_felt

    def answer(self, answer: Answer) -> None:
        owner, request, asked_ns = self._asked.pop(answer.cookie)
        now_ns = time.monotonic_ns()
        took_ns = now_ns - asked_ns
        span = self._traced.pop(answer.cookie, "") if self._traced else ""
        extents = self._extents.pop(answer.token, None) if answer.token else None
        content = self._contents.pop(answer.token) if answer.token and extents is None else b""
        if extents is not None:
            assert isinstance(owner, Client)
            owner.answer_status(request, cut_status(request, extents))
        elif isinstance(owner, Split):
            owner.span = owner.span or span
            if owner.answer(answer.cookie, request, answer.errno, content):
                self._frontend.figures.answered(request.command, request.length, took_ns, owner.errno, owner.span)
            return
        else:
            owner.answer(request, answer.errno, cut_read(request, content) if content else content)
        self._frontend.figures.answered(request.command, request.length, took_ns, answer.errno, span)
        if not answer.errno:
            self._felt.taken.append(took_ns)
            self._tell_felt(now_ns)

    def answer_many(self, many: AnswerMany) -> None:
        asked, writes, contents, traced = self._asked, self._writes, self._contents, self._traced
        now_ns, counted = time.monotonic_ns(), list[tuple[int, int, int]]()
        done: dict[Client, list[tuple[NbdRequest, bytes | memoryview]]] = {}
        for cookie, content, payload in many.answers:
            owner, request, asked_ns = asked[cookie]
            if isinstance(owner, Split) or cookie in traced:
                self.answer(Answer(cookie, 0, content))
            else:
                del asked[cookie]
                answer = (request, contents.pop(content) if content else b"")
                if owner in done:
                    done[owner].append(answer)
                else:
                    done[owner] = [answer]
                counted.append((request[0], request[4], now_ns - asked_ns))
            if payload:
                del writes[payload]
        for client, answers in done.items():
            client.answer_many(answers)
        self._frontend.figures.answered_many(counted)
        self._felt.taken += [took_ns for _, _, took_ns in counted]
        self._tell_felt(now_ns)

    def answer_reads(self, answer: AnswerReads) -> None:
        cookie, token = answer
        client, run, asked_ns = self._runs[cookie]
        assert isinstance(run, Reads)
        content = self._contents.pop(token)
        if self._is_followed(cookie, run):
            self._in_flight.apart(Apart(cookie))
            for at in range(len(run.handles)):
                token = self._in_flight.token()
                self._contents[token] = content[at * run.length : (at + 1) * run.length]
                self.answer(Answer(cookie + at, 0, token))
            return
        del self._runs[cookie]
        client.answer_reads(run, content)
        self._answered_run(Command.READ, run, asked_ns)

    def answer_writes(self, answer: AnswerWrites) -> None:
        cookie = answer.cookie
        client, run, asked_ns = self._runs[cookie]
        assert isinstance(run, Writes)
        if self._is_followed(cookie, run):
            self._in_flight.apart(Apart(cookie))
            for single in range(cookie, cookie + len(run.handles)):
                del self._writes[single]
                self.answer(Answer(single, 0, 0))
            return
        del self._runs[cookie], self._writes[cookie]
        client.answer_writes(run)
        self._answered_run(Command.WRITE, run, asked_ns)

    def _is_followed(self, cookie: int, run: Reads | Writes) -> bool:
        """One of its requests is: it has a span of its own."""
        return bool(self._traced) and not self._traced.keys().isdisjoint(range(cookie, cookie + len(run.handles)))

    def _answered_run(self, command: int, run: Reads | Writes, asked_ns: int) -> None:
        now_ns, together = time.monotonic_ns(), len(run.handles)
        took_ns = now_ns - asked_ns
        self._frontend.figures.answered_alike(command, run.length, took_ns, together)
        self._felt.taken += [took_ns] * together
        self._tell_felt(now_ns)
