"""Cuts the seeds from the public data sets that SOURCES.md names.

    python seeds/cut_seeds.py DATA_FOLDER

Prints each seed's rows and bytes. The same input gives the same bytes: what the data sets lack
(timestamps, flags) is derived from a hash of the row's id, never from a clock or a generator.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

Row = dict[str, str]
SEEDS = Path(__file__).parent

# fmt: off
WELL_KNOWN = [
    "0ad", "audacity", "bash", "blender", "coreutils", "darktable", "evince", "firefox-esr",
    "gimp", "git", "gnome-calculator", "gparted", "grep", "gzip", "htop", "kdenlive", "krita",
    "libc6", "libreoffice-writer", "mc", "mplayer", "nano", "nginx", "openssh-server",
    "perl-base", "postgresql", "psmisc", "rhythmbox", "rsync", "sed", "sudo", "tar", "totem",
    "transmission", "tuxpaint", "vim", "vlc", "wesnoth", "wget", "wireshark", "xfce4-terminal",
]
# fmt: on
SUPERSEDED = ["conky", "gnupg2", "libdbus-glib-1-2", "libtinfo5", "tor-arm"]


def number(key: str, below: int) -> int:
    """A number from 0 to below - 1 that depends on the key alone."""
    return int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()[:12], 16) % below


def moment(key: str, start: date, days: int) -> datetime:
    """A second of the `days` days from `start` on, in UTC."""
    begin = datetime(start.year, start.month, start.day, tzinfo=UTC)
    return begin + timedelta(seconds=number(key, days * 86400))


def stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def rows(path: Path) -> list[Row]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def write(name: str, table: Iterable[Row]) -> None:
    table = list(table)
    path = SEEDS / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    sys.stdout.write(f"{name} {len(table)} rows, {path.stat().st_size} bytes\n")


def products(data: Path) -> Iterator[Row]:
    """150 packages in English and Russian, then 6 whose installed size is unknown, in English."""
    packages = {r["package"]: r for r in rows(data / "debian_packages/debian_packages.csv.gz")}
    translated = {r["package"]: r for r in rows(data / "debian_packages/debian_packages_ru.csv.gz")}

    chosen = [*WELL_KNOWN, *SUPERSEDED]
    per_section = Counter(packages[name]["section"] for name in chosen)
    for name in sorted(translated, key=lambda name: number(name, 1 << 48)):
        section = packages[name]["section"]
        if len(chosen) < 150 and name not in chosen and per_section[section] < 6:
            chosen.append(name)
            per_section[section] += 1

    texts = []
    for name in sorted(chosen):
        own = translated[name]
        texts.append((name, "en", own["short_en"], own["long_en"]))
        texts.append((name, "ru", own["short_ru"], own["long_ru"]))
    unsized = [name for name, package in packages.items() if not package["installed_size_kb"]]
    for name in sorted(unsized, key=lambda name: number(name, 1 << 48))[:6]:
        package = packages[name]
        texts.append((name, "en", package["description_short"], package["description_long"]))

    for product_id, (name, language, title, description) in enumerate(texts, start=1):
        package = packages[name]
        created_at = moment(f"created {name}", date(2025, 1, 1), 365)
        age = number(f"updated {name} {language}", 25_000_000)
        released_on = date(2018, 1, 1) + timedelta(days=number(f"released {name}", 1900))
        yield {
            "product_id": str(product_id),
            "name": name,
            "title": title,
            "description": description,
            "language": language,
            "section": package["section"],
            "priority": package["priority"],
            "version": package["version"],
            "installed_size_kb": package["installed_size_kb"],
            "size_bytes": package["size_bytes"],
            "n_depends": package["n_depends"],
            "essential": package["essential"],
            "maintainer": package["maintainer"].partition(" <")[0],
            "homepage": package["homepage"],
            "released_on": "" if number(f"unreleased {name}", 8) == 0 else released_on.isoformat(),
            "created_at": stamp(created_at),
            "updated_at": stamp(created_at + timedelta(seconds=age)),
        }


SERIES = (
    ("IO2009|I/O", "Google I/O 2009"),
    ("Powered by YouTube", "YouTube API Day"),
    ("GTUG", "Google Technology User Group"),
    ("campfire", "Campfire One"),
    ("AGU", "AGU Virtual Globes"),
    ("GWT|Web Toolkit", "Google Web Toolkit"),
    ("Android", "Android Developers"),
    ("gfw-EN|wmc-", "Google Webmaster Central"),
    ("Friend ?Connect|GFC8", "Google Friend Connect"),
    ("@Google|TheNeuroscience", "Talks at Google"),
)
CREATORS = (
    r"(?:GWT|Android) Developers - (.+)$",
    r"Sandbox Interviews: (.+)$",
    r"^(Steve Souders)",
    r"IO2009-Trailers?-([A-Z][a-z]+)([A-Z][a-z]+)$",
    r"EXT_([A-Z][a-z]+)([A-Z][a-z]+)_",
    r"_(Kevin)(Bourrillion)_",
    r"(?:2009 with|Conversations:) ([A-Z]\w+ [A-Z]\w+)",
    r"Developer Profiles - ([\w ]+) \(",
    r"^(\w+ Marks) ",
    r"^(eBay)",
    r"Talks@Google: (.+)$",
)
CATEGORIES = (
    ("youtube(?!_output)", "youtube"),
    ("android", "android"),
    ("app ?engine|with AE", "app-engine"),
    ("wave", "wave"),
    ("gwt|web toolkit", "web-toolkit"),
    ("chrom|webkit|native client", "chrome"),
    ("earth|kml|globes|sketchup|agu|geo|thematic", "maps"),
    ("opensocial|friend ?connect|osde|gfc8", "social"),
    ("gfw-|wmc-|webmaster|crawl|faster|html ?5|javascript|web|http", "web"),
    (r"google data|atom|\brest\b|\bapis?\b", "data-api"),
)


def first_match(patterns: Iterable[str], *texts: str) -> str | None:
    for pattern in patterns:
        for text in texts:
            if match := re.search(pattern, text):
                return " ".join(match.groups())
    return None


def label(choices: Iterable[tuple[str, str]], default: str, text: str) -> str:
    return next((name for pattern, name in choices if re.search(pattern, text, re.I)), default)


def clips(segments: list[Row]) -> Iterator[tuple[str, Row]]:
    """(video, row) of each English video that has a title and an address."""
    videos: dict[str, list[Row]] = defaultdict(list)
    for segment in segments:
        if segment["lang"] == "en":
            videos[segment["video"]].append(segment)
    for video, own in videos.items():
        title = own[0]["title"]
        found = re.search(r"[?]v=([\w-]{11})", own[0]["url"])
        if not title or not found:
            continue
        clip_id = found[1]
        broadcaster = label(SERIES, "Google Developers", f"{video} {title}")
        topic = label(CATEGORIES, "", title) or label(CATEGORIES, "talks", video)
        creator = first_match(CREATORS, title.strip(), video)
        yield (
            video,
            {
                "clip_id": clip_id,
                "title": title,
                "url": f"http://www.youtube.com/watch?v={clip_id}",
                "broadcaster": broadcaster,
                "creator": creator or broadcaster,
                "category": topic,
                "duration_s": max((row["end_s"] for row in own), key=float),
                "is_removed": str(number(f"removed {clip_id}", 20) == 0).lower(),
                "created_at": stamp(moment(f"created {clip_id}", date(2026, 1, 1), 304)),
            },
        )


def transcript_segments(data: Path, clip_ids: dict[str, str]) -> Iterator[Row]:
    """Up to 16 passages of 30 s of 28 English and all Russian transcripts.

    The first six passages of every third transcript are one row, as where a captioner made no cut:
    these are long enough to need chunks.
    """
    transcripts: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows(data / "captions/captions_passages_30s.csv.gz"):
        if row["video"] in clip_ids and row["lang"] in ("en", "ru"):
            transcripts[row["video"], row["lang"]].append(row)
    long_enough = {key: own for key, own in transcripts.items() if len(own) >= 16}
    english = [key for key in long_enough if key[1] == "en"]
    chosen = sorted(english, key=lambda key: number(key[0], 1 << 48))[:28]
    chosen += [key for key in transcripts if key[1] == "ru"]

    segment_id = 0
    for order, (video, language) in enumerate(sorted(chosen)):
        own = transcripts[video, language][:16]
        parts = [own[:6], *([row] for row in own[6:])] if order % 3 == 0 else [[row] for row in own]
        for segment_no, part in enumerate(parts, start=1):
            segment_id += 1
            yield {
                "segment_id": str(segment_id),
                "clip_id": clip_ids[video],
                "segment_no": str(segment_no),
                "start_s": part[0]["start_s"],
                "end_s": part[-1]["end_s"],
                "text": " ".join(row["text"] for row in part),
                "language": language,
            }


def frames(segments: list[Row], clip_ids: dict[str, str]) -> Iterator[Row]:
    """Eight moments of 26 clips, with what is said then: nothing, where no caption is shown."""
    spoken: dict[str, list[Row]] = defaultdict(list)
    for segment in segments:
        if segment["lang"] == "en" and segment["video"] in clip_ids:
            spoken[segment["video"]].append(segment)
    long_enough = [video for video, own in spoken.items() if float(own[-1]["end_s"]) > 400]
    for video in sorted(long_enough, key=lambda video: number(f"frames {video}", 1 << 48))[:26]:
        clip_id = clip_ids[video]
        for index in range(8):
            at = 5 + 45 * index
            shown = [s for s in spoken[video] if float(s["start_s"]) <= at < float(s["end_s"])]
            yield {
                "frame_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{clip_id}#t={at}")),
                "clip_id": clip_id,
                "captured_at_s": f"{at}.000",
                "caption": shown[0]["text"] if shown else "",
            }


def instructions(data: Path) -> Iterator[Row]:
    """Every instruction; one in about sixteen without consent."""
    count: Counter[str] = Counter()
    for row in rows(data / "robot_instructions/robot_instructions.csv"):
        source = row["source"].lower()
        count[source] += 1
        instruction_id = f"{source}-{count[source]:04d}"
        suite = row["split_or_suite"]
        calvin = {"new_playtable": "train", "new_playtable_validation": "validation"}
        yield {
            "instruction_id": instruction_id,
            "source": row["source"],
            "suite": suite.removesuffix("_validation"),
            "split": calvin.get(suite, ""),
            "task_id": row["task_id"],
            "instruction": row["instruction"],
            "consent": str(number(f"consent {instruction_id}", 16) != 0).lower(),
        }


def main(data: Path) -> None:
    segments = rows(data / "captions/captions_segments.csv.gz")
    videos = dict(clips(segments))
    clip_ids = {video: clip["clip_id"] for video, clip in videos.items()}
    write("raw_products", products(data))
    write("raw_clips", sorted(videos.values(), key=lambda clip: clip["created_at"]))
    write("raw_transcript_segments", transcript_segments(data, clip_ids))
    write("raw_frames", frames(segments, clip_ids))
    write("raw_instructions", instructions(data))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
