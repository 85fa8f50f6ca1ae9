"""Reports show what is in the files of runs, load nothing, and execute nothing foreign."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from made_runs import make_run
from small import small_agent

import tfpg
from tfpg.cli.main import main

VOID = {"meta", "link", "img", "br", "input", "source", "base"}
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """The elements of a page, with the text directly in them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self._open[-1][2].append(data)

    def all(self, tag):
        """The attributes and the text of all elements of a kind."""
        return [
            (attributes, "".join(text)) for name, attributes, text in self.elements if name == tag
        ]

    def texts(self, *tags):
        return ["".join(text) for name, _, text in self.elements if name in tags]

    @property
    def charts(self):
        return json.loads(self.texts("script")[0])["charts"]


def page_of(run, **options):
    return Page(tfpg.report(run, **options).read_text())


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", [100, None, 300, 200.123456789], seed=4, gamma=0.9)


@pytest.fixture
def hostile(tmp_path):
    """A run in which a stranger chose all names and values."""
    column = HOSTILE.replace(",", "")
    folder = make_run(tmp_path / HOSTILE.replace("/", ""), [1, 2], algorithm=HOSTILE, env=HOSTILE)
    config = json.loads((folder / "config.json").read_text())
    config["options"][HOSTILE] = HOSTILE
    config |= {"command": HOSTILE, "versions": {HOSTILE: HOSTILE}, "preset": HOSTILE}
    (folder / "config.json").write_text(json.dumps(config))
    lines = (folder / "metrics.csv").read_text().split("\n")
    added = [f"{lines[0]},{column}", *(f"{line},1" for line in lines[1:-1]), ""]
    (folder / "metrics.csv").write_text("\n".join(added))
    return folder


class TestPageOfARun:
    def test_it_is_written_to_the_folder_or_to_the_given_path(self, run, tmp_path):
        assert tfpg.report(run) == run / "report.html"
        assert tfpg.report(run, tmp_path / "page.html") == tmp_path / "page.html"
        assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()

    def test_the_title_names_the_algorithm_and_the_environment(self, run):
        page = page_of(run)
        assert page.texts("title", "h1") == ["PPO on CartPole-v1"] * 2
        assert page.texts("p")[0].startswith("Seed 4, 400 environment steps, 20")

    def test_the_scores_are_the_last_and_the_best_validation(self, run):
        cells = page_of(run).texts("td")
        assert cells[0] == "200.1, mean of 10 episodes, after 400 environment steps"
        assert cells[1] == "300, mean of 10 episodes, after 300 environment steps"

    def test_without_validation_the_scores_are_those_of_training(self, tmp_path):
        page = page_of(make_run(tmp_path / "run", [None, None], seed=5))
        assert "last return (in training, no validation)" in page.texts("th")
        assert page.texts("td")[0] == "1.5, after 200 environment steps"
        assert [trace["y"] for trace in page.charts[0]] == [[0.5, 1.5]]

    def test_the_curves_have_the_numbers_of_the_metrics(self, run):
        training, greedy = page_of(run).charts[0]
        assert (greedy["x"], greedy["y"]) == ([100, 300, 400], [100, 300, 200.123])
        assert (training["x"], training["y"]) == ([100, 200, 300, 400], [0.4, 1.4, 2.4, 3.4])

    def test_every_other_metric_with_values_has_a_small_chart(self, tmp_path):
        folder = make_run(tmp_path / "run", [1, 2])
        lines = (folder / "metrics.csv").read_text().split("\n")
        values = ["entropy,mean_q", "0.5,NA", "0.25,NA", ""]
        text = "\n".join(",".join(filter(None, pair)) for pair in zip(lines, values, strict=True))
        (folder / "metrics.csv").write_text(text)
        page = page_of(folder)
        assert page.texts("figcaption") == ["entropy"]
        assert page.charts[1][0]["y"] == [0.5, 0.25]
        assert len(page.charts) == sum(each.get("class") == "chart" for each, _ in page.all("div"))

    def test_options_are_listed_where_they_differ_from_the_defaults(self, tmp_path):
        folder = make_run(tmp_path / "run", [1], gamma=0.9, clip_ratio=tfpg.PPO.clip_ratio)
        page = page_of(folder)
        cells = page.texts("th", "td")
        start = cells.index("gamma")
        assert cells[start : start + 3] == ["gamma", "0.9", str(tfpg.PPO.gamma)]
        assert "clip_ratio" not in cells

    def test_a_schedule_that_is_the_default_is_not_listed(self, tmp_path):
        folder = make_run(tmp_path / "run", [1], algorithm="dqn", epsilon=str(tfpg.DQN.epsilon))
        assert "epsilon" not in page_of(folder).texts("th")

    def test_the_command_can_be_copied(self, run):
        config = json.loads((run / "config.json").read_text())
        command = "tfpg train ppo 'CartPole-v1?a=1' --gamma 0.9 && echo <done>"
        (run / "config.json").write_text(json.dumps({**config, "command": command}))
        assert page_of(run).texts("pre", "button") == [command, "Copy"]

    def test_the_video_is_the_file(self, run):
        content = bytes(range(256)) * 40
        (run / "video.mp4").write_bytes(content)
        [(attributes, _)] = page_of(run).all("video")
        assert {"controls", "loop", "muted"} <= set(attributes)
        kind, data = attributes["src"].split(",")
        assert kind == "data:video/mp4;base64"
        assert base64.b64decode(data) == content

    def test_a_missing_or_large_video_is_a_note(self, run):
        assert "The run has no video.mp4." in page_of(run).texts("p")
        with (run / "video.mp4").open("wb") as file:
            file.truncate(20_000_001)
        page = page_of(run)
        assert not page.all("video")
        assert any(text.startswith("video.mp4 is not included") for text in page.texts("p"))

    def test_a_missing_model_is_a_note(self, run):
        assert any("model cannot be read: No model" in text for text in page_of(run).texts("p"))

    def test_it_has_the_layers_and_the_score_of_new_episodes(self, run):
        agent = small_agent(tfpg.Reinforce)
        agent.policy_for("CartPole-v1")
        agent.save(run / "model.keras")
        page = page_of(run, episodes=3, seed=2)
        mean = agent.evaluate("CartPole-v1", 3, seed=2)["episode_return"]
        score = next(cell for cell in page.texts("td") if "new" in cell or "(seed 2)" in cell)
        assert float(score.split(" +- ")[0]) == pytest.approx(mean, rel=1e-3)
        assert score.endswith("the mean of 3 greedy episodes (seed 2) and its 95% interval")
        cells = page.texts("th", "td")
        for layer in agent.model.layers:
            start = cells.index(layer.name)
            shape = f"[N, {layer.output.shape[-1]}]"
            expected = [type(layer).__name__, shape, f"{layer.count_params():,}"]
            assert cells[start + 1 : start + 4] == expected
        assert f"{agent.model.count_params():,}" == cells[cells.index("total") + 3]


class TestPageOfSeveralRuns:
    @pytest.fixture
    def runs(self, tmp_path):
        for seed in range(3):
            make_run(tmp_path / f"runs/ppo/{seed}", [1, 2 + seed], seed=seed)
        make_run(tmp_path / "runs/dqn", [5, 6], algorithm="dqn")
        return tmp_path / "runs"

    def test_it_has_the_table_of_the_comparison(self, runs):
        cells = page_of(runs).texts("th", "td")
        for table in tfpg.compare(runs).tables():
            for row in table.rows:
                start = cells.index(row[0])
                assert tuple(cells[start : start + len(row)]) == row

    def test_all_runs_are_lines_and_those_of_seeds_have_a_mean(self, runs):
        page = page_of(runs)
        assert page.texts("h1") == ["DQN, PPO on CartPole-v1"]
        lines = {trace["name"]: trace["y"] for trace in page.charts[0]}
        assert list(lines) == [
            *("dqn, seed 0", "ppo, seed 0", "ppo, seed 1", "ppo, seed 2", "ppo, 3 seeds"),
        ]
        assert lines["ppo, seed 2"] == [1, 4]
        assert (lines["ppo, 3 seeds"][0], lines["ppo, 3 seeds"][-1]) == (1, 3)

    def test_environments_have_their_own_charts(self, tmp_path):
        make_run(tmp_path / "runs/a", [1, 2])
        make_run(tmp_path / "runs/b", [3, 4], env="Acrobot-v1")
        page = page_of(tmp_path / "runs")
        assert [trace["y"] for chart in page.charts[::2] for trace in chart] == [[1, 2], [3, 4]]

    def test_new_episodes_are_refused(self, runs):
        with pytest.raises(ValueError, match="several runs"):
            tfpg.report(runs, episodes=5)


class TestSafety:
    def test_nothing_is_loaded_from_elsewhere(self, run):
        (run / "video.mp4").write_bytes(b"a video")
        page = page_of(run)
        for tag, attributes, _ in page.elements:
            assert tag not in ("link", "base", "iframe", "object", "embed")
            for name in ("src", "href", "srcset", "poster", "action"):
                assert attributes.get(name, "data:").startswith("data:")
        assert not re.search(r"url\(|@import", page.texts("style")[0])
        policy = next(each["content"] for each, _ in page.all("meta") if "http-equiv" in each)
        assert policy.startswith("default-src 'none';")

    def test_the_browser_is_allowed_the_scripts_of_the_page_alone(self, run):
        page = page_of(run)
        policy = next(each["content"] for each, _ in page.all("meta") if "http-equiv" in each)
        data, *scripts = page.all("script")
        assert data[0]["type"] == "application/json"
        digests = [hashlib.sha256(text.encode()).digest() for _, text in scripts]
        names = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)
        assert f"; script-src {names};" in policy

    def test_hostile_strings_are_text(self, run, hostile):
        expected = {tag for tag, *_ in page_of(run).elements} | {"pre", "button", "figcaption"}
        page = page_of(hostile)
        assert {tag for tag, *_ in page.elements} == expected
        assert len(page.all("script")) == 3
        assert not any(name.startswith("on") for _, each, _ in page.elements for name in each)
        for tag in ("pre", "figcaption", "th", "td"):
            assert HOSTILE in page.texts(tag)
        assert page.texts("h1") == [f"{HOSTILE} on {HOSTILE}"]
        assert all("<" not in trace["name"] for chart in page.charts for trace in chart)


class TestErrors:
    def test_a_missing_plotly_is_named_with_its_command(self, run, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "plotly.offline", None)
        with pytest.raises(ImportError, match=r"^Reports need Plotly: pip install plotly$"):
            tfpg.report(run)
        assert main(["report", str(run)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        assert not (run / "report.html").exists()

    def test_a_folder_without_runs_is_refused(self, tmp_path, capsys):
        assert main(["report", str(tmp_path)]) == 1
        assert "is not a run: it has no config.json." in capsys.readouterr().err


def dom_of(path, profile):
    """The parsed document after a browser has run the scripts of a page."""
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --virtual-time-budget=8000 --dump-dom"
    command = ["chromium", *flags.split(), f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return Page(done.stdout)


def classes(page):
    return {name for _, each, _ in page.elements for name in (each.get("class") or "").split()}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
class TestInABrowser:
    def test_charts_are_drawn_hovering_shows_values_and_the_video_loads(self, tmp_path, capsys):
        run = tmp_path / "run"
        train = f"train reinforce CartPole-v1 --iterations 3 --seed 0 --verbose 0 --run {run}"
        assert main(train.split()) == 0
        assert main(["report", str(run)]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(str(run / "report.html"))
        drawn = dom_of(run / "report.html", tmp_path / "profile")
        count = len(Page((run / "report.html").read_text()).charts)
        plots = [each for each, _ in drawn.all("div") if "js-plotly-plot" in each.get("class", "")]
        assert len(plots) == count
        assert "hoverlayer" in classes(drawn)
        lines = [each for each, _ in drawn.all("path") if each.get("class") == "js-line"]
        assert len(lines) >= count
        assert all(each["d"].startswith("M") for each in lines)

        script = """<script>
            const video = document.querySelector("video");
            const shown = () => document.querySelector(".hoverlayer").textContent;
            const write = () => document.title = [video.videoWidth > 0, video.error, shown()];
            const chart = document.querySelector(".chart");
            Plotly.Fx.hover(chart, {xval: chart.data[0].x[0]}, ["xy"]);
            setInterval(write, 100);
        </script></body>"""
        text = (run / "report.html").read_text()
        text = re.sub("<meta http-equiv[^>]*>", "", text).replace("</body>", script)
        (run / "probe.html").write_text(text)
        [title] = dom_of(run / "probe.html", tmp_path / "profile").texts("title")
        loaded, error, values = title.split(",", 2)
        assert (loaded, error) == ("true", "")
        assert re.search(r"\d  Training return", values)

    def test_hostile_names_in_charts_are_text(self, hostile, tmp_path):
        runs = tmp_path / "runs"
        shutil.copytree(hostile, runs / "a")
        make_run(runs / "b", [3, 4])
        page = dom_of(tfpg.report(runs), tmp_path / "profile")
        assert page.texts("title") != ["owned"]
        assert not page.all("img")
        assert not any(name.startswith("on") for _, each, _ in page.elements for name in each)
        assert any(HOSTILE in text for text in page.texts("text"))
