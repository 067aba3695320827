//! Alerts, runbook and dashboard: what they name is there, the rules fire when they should, and a Prometheus that
//! scraped a real `serve` answers each query of the dashboard.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tokio::process::Command;
use volume_reaper::cli;

use crate::{
    tls::free_port,
    world::{On, eventually, world},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read("deploy/prometheus/alerts.yaml")).expect("YAML");
    file["groups"][0]["rules"].as_array().expect("rules").clone()
}

/// The queries of the dashboard.
pub(crate) fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect()
}

/// The metrics that a query names, without what Prometheus appends to those of a histogram.
fn metrics(query: &str) -> BTreeSet<String> {
    let names = query.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let names = names.filter(|name| name.starts_with("volume_reaper_"));
    let plain =
        |name: &str| ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
    names.map(|name| plain(name).unwrap_or_else(|| name.to_owned())).collect()
}

async fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(root().join("deploy/prometheus")).output().await;
    let output = output.expect("promtool, which deploy/local/install installs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[tokio::test]
async fn each_alert_is_quiet_when_all_is_well_and_fires_when_not() {
    promtool(&["check", "rules", "alerts.yaml"]).await;
    promtool(&["test", "rules", "alerts.test.yaml"]).await;
    let tried = read("deploy/prometheus/alerts.test.yaml");
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name");
        assert!(tried.matches(&format!("alertname: {name}\n")).count() >= 2, "{name} is tried quiet and firing");
    }
}

#[test]
fn each_alert_has_its_chapter_in_the_runbook_and_each_chapter_its_alert() {
    let runbook = read("docs/runbook.md");
    let chapters: Vec<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let names: Vec<_> = rules().iter().map(|rule| rule["alert"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(chapters, names);
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name").to_lowercase();
        let base = "{{ with $externalLabels.reaper_runbook }}{{ . }}{{ else }}docs/runbook.md{{ end }}";
        assert_eq!(rule["annotations"]["runbook_url"], format!("{base}#{name}"));
    }
}

#[test]
fn the_commands_of_the_runbook_are_commands_of_the_program() {
    let runbook = read("docs/runbook.md").replace('\n', " ");
    let commands: Vec<_> = runbook.split('`').filter(|code| code.starts_with("volume-reaper ")).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let words = command.split_whitespace();
        let parsed = cli::command().try_get_matches_from(words);
        assert!(parsed.is_ok(), "{command}: {}", parsed.expect_err("refused"));
    }
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let code = metrics(include_str!("../../src/metrics/mod.rs"));
    let alerts = rules().into_iter().map(|rule| rule["expr"].as_str().expect("a query").to_owned());
    for query in alerts.chain(queries()) {
        let named = metrics(&query);
        assert!(!named.is_empty(), "{query}");
        assert_eq!(named.difference(&code).collect::<Vec<_>>(), [""; 0], "{query}");
    }
}

/// A Prometheus of its own, which scrapes one address.
pub(crate) struct Prometheus {
    address: String,
    _process: tokio::process::Child,
}

impl Prometheus {
    fn scraping(target: &str, dir: &Path) -> Self {
        let scraped = format!("- job_name: reaper\n  static_configs: [{{targets: ['{target}']}}]");
        Self::start(&format!("global: {{scrape_interval: 1s}}\nscrape_configs:\n{scraped}\n"), dir)
    }

    /// One that scrapes nothing, and has these samples, as `OpenMetrics` has them.
    pub(crate) async fn with_samples(samples: &str, dir: &Path) -> Self {
        std::fs::write(dir.join("samples"), samples).expect("written");
        let mut promtool = Command::new("promtool");
        promtool.args(["tsdb", "create-blocks-from", "openmetrics", "--quiet", "samples", "data"]).current_dir(dir);
        let output = promtool.output().await.expect("promtool, which deploy/local/install installs");
        assert!(output.status.success(), "{output:?}");
        let prometheus = Self::start("global: {}\n", dir);
        eventually("it answers", async || prometheus.ask("1").await.map(drop)).await;
        prometheus
    }

    fn start(config: &str, dir: &Path) -> Self {
        std::fs::write(dir.join("prometheus.yml"), config).expect("written");
        let address = format!("127.0.0.1:{}", free_port());
        let process = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus, which deploy/local/install installs");
        Self { address, _process: process }
    }

    /// What it answers; none while it does not.
    async fn ask(&self, query: &str) -> Option<Value> {
        self.get("query", &[("query", query)]).await
    }

    /// What comes of a query at a moment: each series' labels and value.
    pub(crate) async fn at(&self, query: &str, seconds: i64) -> Vec<(Value, f64)> {
        let answer = self.get("query", &[("query", query), ("time", &seconds.to_string())]).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array().expect("series").iter();
        let value = |series: &Value| series["value"][1].as_str().and_then(|it| it.parse().ok()).expect("a number");
        result.map(|series| (series["metric"].clone(), value(series))).collect()
    }

    /// The moments from `begin` to `end`, `step` seconds apart, at which a query comes to anything.
    pub(crate) async fn when(&self, query: &str, (begin, end): (i64, i64), step: i64) -> BTreeSet<i64> {
        let [begin, end, step] = [begin, end, step].map(|seconds| seconds.to_string());
        let range = [("query", query), ("start", &begin), ("end", &end), ("step", &step)];
        let answer = self.get("query_range", &range).await.expect("an answer");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().expect("series").iter();
        let values = series.flat_map(|series| series["values"].as_array().expect("values"));
        values.map(|value| value[0].as_i64().expect("whole seconds")).collect()
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--get"]);
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let output = curl.arg(format!("http://{}/api/v1/{path}", self.address)).output().await.expect("curl");
        serde_json::from_slice(&output.stdout).ok()
    }
}

#[tokio::test]
async fn a_prometheus_that_scraped_serve_answers_each_query_of_the_dashboard() {
    let world = world(On::Postgres).await;
    let serving = world.serve().await;
    let prometheus = Prometheus::scraping(&serving.http, world.dir.path());
    let is_scraped = async || prometheus.ask("up == 1").await?["data"]["result"].get(0).map(drop);
    eventually("it is scraped", is_scraped).await;
    for number in 0..3 {
        let id = format!("t{number}");
        world.closed_with_volume(&id).await;
        world.publish_closed(&id).await;
        world.until_marked(&id).await;
    }
    for query in queries() {
        let query = query.replace("$job", ".*").replace("$__rate_interval", "5m");
        let answered = async || {
            let answer = prometheus.ask(&query).await?;
            assert_eq!(answer["status"], "success", "{query}: {answer}");
            answer["data"]["result"].get(0).map(drop)
        };
        eventually(&query, answered).await;
    }
    assert_eq!(serving.stop().await, Some(0));
}
