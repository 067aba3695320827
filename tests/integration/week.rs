//! A week of traffic is shown by receipts, counts, status, API, metrics, dashboard and alerts alike: the sums agree to
//! the byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::{
    alerts::{Prometheus, queries, rules},
    made_up_week::{ALERTS, TICK, Truth, Week, live},
    world::{On, Serving, World, world},
};

/// How many volumes went, and what was in them, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    volumes: u64,
    bytes: u64,
    unsized_volumes: u64,
}

/// By source and outcome.
type Sums = BTreeMap<(String, String), Sum>;

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn add(sums: &mut Sums, source: &str, outcome: &str, more: Sum) {
    let sum = sums.entry((source.to_owned(), outcome.to_owned())).or_default();
    sum.volumes += more.volumes;
    sum.bytes += more.bytes;
    sum.unsized_volumes += more.unsized_volumes;
}

fn add_receipt(sums: &mut Sums, source: &str, outcome: &str, bytes: Option<u64>) {
    let unsized_volumes = u64::from(outcome == "removed" && bytes.is_none());
    add(sums, source, outcome, Sum { volumes: 1, bytes: bytes.unwrap_or_default(), unsized_volumes });
}

fn of_receipts<'a>(receipts: impl IntoIterator<Item = &'a Value>) -> Sums {
    let mut sums = Sums::new();
    for receipt in receipts {
        add_receipt(&mut sums, &text(&receipt["source"]), &text(&receipt["outcome"]), receipt["bytes"].as_u64());
    }
    sums
}

fn of_csv(csv: &str) -> Sums {
    let mut lines = csv::Reader::from_reader(csv.as_bytes());
    let columns = lines.headers().expect("columns").clone();
    let column = |name: &str| columns.iter().position(|column| column == name).expect("a column");
    let [source, outcome, bytes] = ["source", "outcome", "bytes"].map(column);
    let mut sums = Sums::new();
    for line in lines.records() {
        let line = line.expect("a line");
        add_receipt(&mut sums, &line[source], &line[outcome], line[bytes].parse().ok());
    }
    sums
}

fn of_stats<'a>(stats: impl IntoIterator<Item = &'a Value>) -> Sums {
    let mut sums = Sums::new();
    for stat in stats {
        let [volumes, bytes, unsized_volumes] =
            ["receipts", "bytes", "unsized_receipts"].map(|field| stat[field].as_u64().expect("a number"));
        add(&mut sums, &text(&stat["source"]), &text(&stat["outcome"]), Sum { volumes, bytes, unsized_volumes });
    }
    sums
}

fn total(sums: &Sums, is_meant: impl Fn(&str, &str) -> bool) -> Sum {
    let meant = sums.iter().filter(|((source, outcome), _)| is_meant(source, outcome)).map(|(_, sum)| sum);
    meant.fold(Sum::default(), |all, one| Sum {
        volumes: all.volumes + one.volumes,
        bytes: all.bytes + one.bytes,
        unsized_volumes: all.unsized_volumes + one.unsized_volumes,
    })
}

/// All items of a list of the API, page by page.
async fn pages(serving: &Serving, path: &str, list: &str) -> Vec<Value> {
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(serving, &format!("{path}?limit=1000{after}")).await;
        items.extend(page[list].as_array().expect("a list").iter().cloned());
        let Some(next) = page["next"].as_str() else { return items };
        after = format!("&after={next}");
    }
}

async fn get(serving: &Serving, path: &str) -> Value {
    let answer = crate::api::ask(serving, &format!("GET /api/v1{path}"), &[], "").await;
    assert_eq!(answer.code, 200, "{path}: {}", answer.text);
    serde_json::from_str(&answer.body()).expect("JSON")
}

fn moment(value: &Value) -> DateTime<Utc> {
    text(value).parse().expect("a time")
}

/// The value of one line of the metrics.
fn metric(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().expect("a whole number")
}

fn same<T: PartialEq + Debug>(what: &str, on: On, found: T, expected: T) {
    assert_eq!(found, expected, "{on:?}: {what}");
}

#[tokio::test]
async fn a_week_is_shown_alike_by_all_who_tell_of_it_to_the_byte() {
    for on in [On::Sqlite, On::Postgres] {
        let mut world = world(on).await;
        let week = live(&world).await;
        let receipts = world.json(&["receipts", "--json"]).await;
        let receipts = receipts["receipts"].as_array().expect("a list");
        let sums = of_receipts(receipts);
        let removed = total(&sums, |_, outcome| outcome == "removed");
        let truth = Truth {
            removed: removed.volumes,
            not_found: total(&sums, |_, outcome| outcome == "not_found").volumes,
            bytes: removed.bytes,
            unsized_volumes: removed.unsized_volumes,
        };
        same("what the platform and the daemon know", on, truth, week.truth);
        assert!(truth.bytes > 1 << 40 && truth.not_found > 100 && truth.unsized_volumes > 100, "{on:?}: {truth:?}");
        assert!(sums.keys().map(|(source, _)| source.as_str()).eq(["event", "event", "sweep", "sweep"]), "{sums:?}");
        let csv = world.run(&["receipts", "--csv"]).await.stdout;
        same("receipts --csv", on, of_csv(&String::from_utf8(csv).expect("text")), sums.clone());
        let verified = world.json(&["receipts", "verify", "--json"]).await;
        same("receipts verify", on, &verified["flaws"], &json!([]));

        of_the_service(&mut world, on, &week, receipts).await;
        of_the_metrics(on, &week, &sums);
        if matches!(on, On::Postgres) {
            of_prometheus(&world, &week, receipts).await;
        }
    }
}

/// What a running service says: its API, and `status`.
async fn of_the_service(world: &mut World, on: On, week: &Week, receipts: &[Value]) {
    let sums = of_receipts(receipts);
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = world.serve_idle().await;
    same("the API's receipts", on, of_receipts(&pages(&serving, "/removals", "removals").await), sums.clone());
    // Minutes are kept for two days.
    let two_days_ago = week.ended - TimeDelta::hours(47);
    for (by, since) in [("minute", two_days_ago), ("hour", week.began - TimeDelta::hours(1)), ("day", week.began)] {
        let stats = get(&serving, &format!("/stats?by={by}&since={}", since.format("%Y-%m-%dT%H:%M:%SZ"))).await;
        let stats = stats["stats"].as_array().expect("a list");
        let meant = receipts.iter().filter(|receipt| by != "minute" || moment(&receipt["removed_at"]) >= since);
        same(by, on, of_stats(stats), of_receipts(meant));
        // And each bucket for itself.
        let length = match by {
            "minute" => 16,
            "hour" => 13,
            _ => 10,
        };
        let bucket = |value: &Value| text(value)[..length].to_owned();
        let buckets: BTreeSet<_> = stats.iter().map(|stat| bucket(&stat["bucket"])).collect();
        for one in &buckets {
            let counted = of_stats(stats.iter().filter(|stat| bucket(&stat["bucket"]) == *one));
            let written = of_receipts(receipts.iter().filter(|receipt| bucket(&receipt["removed_at"]) == *one));
            same(one, on, counted, written);
        }
        assert!(buckets.len() >= 7, "{on:?}: {buckets:?}");
    }
    let sweeps = pages(&serving, "/sweeps", "sweeps").await;
    let of_sweeps = |field: &str| sweeps.iter().filter_map(|sweep| sweep["report"][field].as_u64()).sum::<u64>();
    let swept = total(&sums, |source, outcome| source == "sweep" && outcome == "removed");
    let found =
        Sum { volumes: of_sweeps("removed"), bytes: of_sweeps("bytes"), unsized_volumes: of_sweeps("unsized_volumes") };
    same("the list of sweeps", on, found, swept);

    let status = world.json(&["status", "--json"]).await;
    same("status of the API", on, &get(&serving, "/status").await["removals"], &status["removals"]);
    for (name, hours) in [("hour", 1), ("day", 24)] {
        let since = Utc::now() - TimeDelta::hours(hours);
        let last = of_receipts(receipts.iter().filter(|receipt| moment(&receipt["removed_at"]) >= since));
        let removed = total(&last, |_, outcome| outcome == "removed");
        let gone = total(&last, |_, outcome| outcome == "not_found");
        let removals = &status["removals"];
        let count = |outcome: &str| removals[format!("last_{name}")][outcome].as_u64().unwrap_or_default();
        same(name, on, (count("removed"), count("not_found")), (removed.volumes, gone.volumes));
        let expected = json!({ "bytes": removed.bytes, "unsized_volumes": removed.unsized_volumes });
        same(name, on, &removals[format!("reclaimed_last_{name}")], &expected);
    }
    assert_eq!(serving.stop().await, Some(0));
}

/// The counters at the end of the week, and the gauges, which say that nothing is left.
fn of_the_metrics(on: On, week: &Week, sums: &Sums) {
    let Week { metrics, .. } = week;
    let removed = total(sums, |_, outcome| outcome == "removed");
    let counted = |series: &str| metric(metrics, series);
    same("bytes", on, counted("volume_reaper_reclaimed_bytes_total"), removed.bytes);
    same("unknown sizes", on, counted("volume_reaper_reclaimed_unknown_total"), removed.unsized_volumes);
    for ((source, outcome), sum) in sums {
        let series = format!("volume_reaper_cleanups_total{{source=\"{source}\",outcome=\"{outcome}\"}}");
        same(&series, on, counted(&series), sum.volumes);
    }
    same("removals", on, counted("volume_reaper_removal_seconds_count"), removed.volumes);
    same("left", on, counted("volume_reaper_unmarked_threads"), 0);
}

/// What a Prometheus that scraped the service all the week says to dashboard and alerts.
async fn of_prometheus(world: &World, week: &Week, receipts: &[Value]) {
    let prometheus = Prometheus::with_samples(&week.samples, world.dir.path()).await;
    let (began, ended) = (week.began.timestamp(), week.ended.timestamp());
    let a_day_ago = week.ended - TimeDelta::days(1);
    let last_day = of_receipts(receipts.iter().filter(|receipt| moment(&receipt["removed_at"]) > a_day_ago));
    let removed = total(&last_day, |_, outcome| outcome == "removed");
    let whole = total(&of_receipts(receipts), |_, outcome| outcome == "removed");
    let (mut of_volumes, mut of_bytes) = (0, 0);
    for query in queries() {
        let query = query.replace("$job", ".*").replace("$__rate_interval", "30m");
        let answer = prometheus.at(&query, ended).await;
        // The two of them that are sums.
        if query.contains("[24h]") {
            #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
            let expected = if query.contains("reclaimed_bytes") {
                of_bytes += 1;
                removed.bytes as f64
            } else {
                of_volumes += 1;
                removed.volumes as f64
            };
            let values: Vec<_> = answer.iter().map(|(_, value)| *value).collect();
            assert_eq!(values, [expected], "{query}");
        }
    }
    assert_eq!((of_volumes, of_bytes), (1, 1), "panels of the last 24 hours");
    let reclaimed = prometheus.at("volume_reaper_reclaimed_bytes_total", ended).await;
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
    let expected = whole.bytes as f64;
    assert_eq!(reclaimed.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [expected]);

    let mut fired = BTreeSet::new();
    for rule in rules() {
        let (name, query) = (text(&rule["alert"]), text(&rule["expr"]));
        let lasts = rule["for"].as_str().map_or(0, |lasts| {
            let lasts = humantime::parse_duration(lasts).expect("a duration");
            i64::try_from(lasts.as_secs()).expect("not long")
        });
        let at = prometheus.when(&query, (began, ended), TICK.num_seconds()).await;
        let expected = ALERTS.iter().find(|(alert, _)| *alert == name).map(|(_, hours)| hours);
        for seconds in at {
            let hour = i32::try_from((seconds - began) / 3600).expect("a week");
            assert!(expected.is_some_and(|hours| hours.contains(&hour)), "{name} in hour {hour}");
            fired.insert((name.clone(), seconds, lasts));
        }
    }
    for (alert, _) in ALERTS {
        let of_it = || fired.iter().filter(|(name, ..)| name == alert);
        let (first, last) = (of_it().next(), of_it().next_back());
        let (Some((_, first, lasts)), Some((_, last, _))) = (first, last) else { panic!("{alert} does not fire") };
        let moments = i64::try_from(of_it().count()).expect("a week");
        assert_eq!(moments, (last - first) / TICK.num_seconds() + 1, "{alert} in one go");
        assert!(last - first >= *lasts, "{alert} for {lasts} s: from {first} to {last}");
    }
}
