"""Metrics as Prometheus reads them (text exposition format 0.0.4), named by OpenTelemetry's rules for it: dots become
underscores, the unit is a suffix, a counter ends in _total. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from stoscore.metrics import Instrument, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_UNIT = {"s": "_seconds", "By": "_bytes"}


def prometheus_name(instrument: Instrument) -> str:
    """stos.volume.io.duration (s) -> stos_volume_io_duration_seconds"""
    unit = _UNIT.get(instrument.unit, "")
    name = instrument.name.replace(".", "_").removesuffix(unit) + unit
    return f"{name}_total" if instrument.kind == "counter" else name


def render(samples: Iterable[Sample]) -> str:
    """Families together, as the format wants it."""
    families: dict[str, list[Sample]] = {}
    for sample in samples:
        families.setdefault(sample.name, []).append(sample)
    lines: list[str] = []
    for members in families.values():
        instrument = members[0].instrument
        name = prometheus_name(instrument)
        lines.append(f"# HELP {name} {_help(instrument.description)}")
        lines.append(f"# TYPE {name} {instrument.kind}")
        for sample in members:
            lines += _lines(name, instrument, sample)
    return "\n".join([*lines, ""])


def _lines(name: str, instrument: Instrument, sample: Sample) -> list[str]:
    labels = [f'{key}="{_label(value)}"' for key, value in zip(instrument.attributes, sample.attributes, strict=True)]
    if instrument.kind != "histogram":
        return [f"{name}{_braces(labels)} {_number(sample.value)}"]
    lines = []
    below = 0
    for bound, count in zip((*map(_number, instrument.bounds), "+Inf"), sample.counts, strict=True):
        below += count
        upper = f'le="{bound}"'
        lines.append(f"{name}_bucket{_braces([*labels, upper])} {below}")
    return [*lines, f"{name}_sum{_braces(labels)} {_number(sample.value)}", f"{name}_count{_braces(labels)} {below}"]


def _braces(labels: list[str]) -> str:
    return f"{{{','.join(labels)}}}" if labels else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
