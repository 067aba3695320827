//! A Chromium that tests drive, by the few words of W3C WebDriver that they need.

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};

use crate::world::eventually;

/// A browser starts in seconds; nothing else takes as long.
const DEADLINE: Duration = Duration::from_mins(1);
/// Of the tabulator on one page at most.
const MOST_STOPS: usize = 300;
/// How WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one page. It ends with it.
pub(crate) struct Browser {
    /// Killed with it; the browser ends with its driver's session.
    _driver: Child,
    address: String,
    session: String,
    _profile: TempDir,
}

/// What a browser has besides its usual settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) runs_scripts: bool,
    pub(crate) size: (u32, u32),
    pub(crate) is_dark: bool,
}

pub(crate) const USUAL: Manner = Manner { runs_scripts: true, size: (1280, 900), is_dark: false };

impl Browser {
    pub(crate) async fn start(manner: Manner) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver, which deploy/local/install installs");
        let mut lines = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let port = async {
            loop {
                let line = lines.next_line().await.expect("read").expect("it says its port");
                if let Some((_, port)) = line.split_once("started successfully on port ") {
                    return port.trim_end_matches('.').to_owned();
                }
            }
        };
        let port = timeout(DEADLINE, port).await.expect("it starts");
        let profile = TempDir::new().expect("a directory");
        let (width, height) = manner.size;
        let mut arguments = vec![
            "--headless=new".to_owned(),
            // The tests run as root, in a container.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        arguments.extend(manner.is_dark.then(|| "--blink-settings=preferredColorScheme=0".to_owned()));
        let scripts = if manner.runs_scripts { 1 } else { 2 };
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {
                "binary": binary(),
                "args": arguments,
                "prefs": { "profile.managed_default_content_settings.javascript": scripts },
            },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser =
            Self { _driver: driver, address: format!("127.0.0.1:{port}"), session: String::new(), _profile: profile };
        let session = browser.ask("POST", "/session", &capabilities).await;
        let session = session["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {session}"));
        browser.session = format!("/session/{session}");
        browser
    }

    /// Says one thing to the driver, and returns the value of its answer.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            let body = if method == "POST" { body.to_string() } else { String::new() };
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: \
                 {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).await?;
            // It keeps the connection, so that its length says where the answer ends.
            let mut reader = BufReader::new(stream);
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).await? > 2 {
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            let mut answer = vec![0; length];
            reader.read_exact(&mut answer).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let body = timeout(DEADLINE, exchange).await.expect("chromedriver answers").expect("an answer");
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        answer["value"].clone()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let value = self.ask("POST", &format!("{}{path}", self.session), body).await;
        assert!(value.get("error").is_none(), "{path} {body}: {value}");
        value
    }

    async fn get(&self, path: &str) -> Value {
        self.ask("GET", &format!("{}{path}", self.session), &Value::Null).await
    }

    pub(crate) async fn open(&self, address: &str) {
        self.post("/url", &json!({ "url": address })).await;
    }

    pub(crate) async fn address(&self) -> String {
        self.get("/url").await.as_str().expect("an address").to_owned()
    }

    /// What a script returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// What a script hands to its last argument.
    pub(crate) async fn run_until_called(&self, script: &str) -> Value {
        self.post("/execute/async", &json!({ "script": script, "args": [] })).await
    }

    /// The element of a CSS selector.
    async fn find(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector })).await;
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    /// What of an element can be read.
    pub(crate) async fn text(&self, selector: &str) -> String {
        // At once: what is found first may be replaced before it is read.
        let text = self.run(&format!("return document.querySelector({}).innerText", json!(selector))).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    pub(crate) async fn click(&self, selector: &str) {
        let element = self.find(selector).await;
        self.post(&format!("/element/{element}/click"), &json!({})).await;
    }

    /// Moves the mouse to where an element is, whichever is there then.
    pub(crate) async fn point_at(&self, selector: &str) {
        let place = "const { x, y, width, height } = document.querySelector(arguments[0]).getBoundingClientRect(); \
                     return [Math.round(x + width / 2), Math.round(y + height / 2)]";
        let place = self.post("/execute/sync", &json!({ "script": place, "args": [selector] })).await;
        let there = json!({ "type": "pointerMove", "x": place[0], "y": place[1], "duration": 0 });
        let mouse = json!({ "type": "pointer", "id": "mouse", "actions": [there] });
        self.post("/actions", &json!({ "actions": [mouse] })).await;
    }

    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.post(&format!("/element/{element}/value"), &json!({ "text": text })).await;
    }

    /// Presses keys that lead to another page, and returns once that is there as a whole.
    pub(crate) async fn press_on(&self, keys: &str) {
        // What is set here does not outlive the page.
        let leave = "window.isLeft = true; return document.readyState === 'complete'";
        self.until("the page is loaded", leave).await;
        self.press(keys).await;
        let is_there = "return window.isLeft === undefined && document.readyState === 'complete'";
        self.until(&format!("{keys:?} leads to another page"), is_there).await;
    }

    /// Presses keys, one after the other, wherever the focus is, as soon as the page is there as a whole.
    pub(crate) async fn press(&self, keys: &str) {
        self.until("the page is loaded", "return document.readyState === 'complete'").await;
        let key = |key: char, kind: &str| json!({ "type": kind, "value": key.to_string() });
        let actions: Vec<_> = keys.chars().flat_map(|each| [key(each, "keyDown"), key(each, "keyUp")]).collect();
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] })).await;
    }

    /// Returns once an element says this; while a page is on its way it may not be there at all.
    pub(crate) async fn until_text(&self, selector: &str, wanted: &str) {
        let says = json!([selector, wanted]);
        let script = "const place = document.querySelector(arguments[0]); \
                      return place !== null && place.checkVisibility() && place.innerText.includes(arguments[1])";
        let body = json!({ "script": script, "args": says });
        let has = async || {
            let answer = self.ask("POST", &format!("{}/execute/sync", self.session), &body).await;
            (answer == true).then_some(())
        };
        eventually(&format!("{selector} says {wanted:?}"), has).await;
    }

    /// Whether a script returns true; not while a page is on its way.
    pub(crate) async fn is(&self, script: &str) -> bool {
        let body = json!({ "script": script, "args": [] });
        self.ask("POST", &format!("{}/execute/sync", self.session), &body).await == true
    }

    /// Returns once a script returns true.
    pub(crate) async fn until(&self, what: &str, script: &str) {
        eventually(what, async || self.is(script).await.then_some(())).await;
    }

    /// Presses the tabulator, from wherever the focus is, until it is on what a selector names.
    pub(crate) async fn tab_to(&self, selector: &str) {
        let is_there = format!("return document.activeElement.matches({})", json!(selector));
        for _ in 0..MOST_STOPS {
            self.press("\u{e004}").await;
            if self.is(&is_there).await {
                return;
            }
        }
        let page = self.run("return location.href + document.querySelector('main').innerText").await;
        panic!("the tabulator does not lead to {selector}: {page}");
    }

    /// What the browser complained of since it was asked last.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" })).await;
        log.as_array().into_iter().flatten().map(|line| line["message"].to_string()).collect()
    }

    /// A picture of the page, what is below the window's edge included, as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let size = "const root = document.documentElement; return [root.scrollWidth, root.scrollHeight]";
        let size = self.run(size).await;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let params = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture =
            self.post("/goog/cdp/execute", &json!({ "cmd": "Page.captureScreenshot", "params": params })).await;
        STANDARD.decode(picture["data"].as_str().expect("base64")).expect("base64")
    }

    /// Ends the browser; its driver ends by being dropped.
    pub(crate) async fn close(self) {
        self.ask("DELETE", &self.session, &Value::Null).await;
    }
}

/// Chromium as Debian has it, or Google's.
fn binary() -> &'static str {
    let all = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    all.into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .expect("Chromium, which deploy/local/install installs")
}
