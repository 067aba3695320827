//! The layout of the source, read from its text: imports run downward only, a library stays in its room, and files,
//! lines and names keep their limits. Needs no server, and nothing of the crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The rooms of `src/` from the ground up. A room imports from the floors below its own, never from beside or above it.
/// A room is a folder or a file of that name.
const FLOORS: [&[&str]; 11] = [
    &["build_info", "clock", "failure", "host", "journal", "progress", "reconnect", "terminal", "tls", "volume_name"],
    &["metrics"],
    &["health", "traces"],
    &["cleanup"],
    &["delivery", "sweep"],
    &["config"],
    &["docker", "queue", "store"],
    &["operations"],
    &["cli", "console"],
    &["commands", "logging"],
    &["lib", "main"],
];

/// Libraries, each with the only room that may name it.
const LIBRARIES: [(&str, &str); 8] = [
    ("backoff", "reconnect"),
    ("bollard", "docker"),
    ("indicatif", "progress"),
    ("lapin", "queue"),
    ("opentelemetry", "traces"),
    ("rustls", "tls"),
    ("sea_orm", "store"),
    ("sqlx", "store"),
];

/// Folders whose files have the same names on purpose: what differs between the databases.
const DIALECTS: [&str; 3] = ["src/store/mysql", "src/store/postgres", "src/store/sqlite"];

/// Code that is longer than this is more than one thing. Tests in the same file are not counted.
const MOST_LINES: usize = 300;

/// rustfmt keeps code within it, but neither comments nor long texts.
const MOST_COLUMNS: usize = 120;

/// Texts of files by their path from the repository's root.
type Tree = BTreeMap<String, String>;

/// All findings, each with its place and what to do.
fn findings(tree: &Tree) -> Vec<String> {
    let rules = [imports, libraries, repeated_names, long_files, long_lines, vague_comments];
    rules.into_iter().flat_map(|rule| rule(tree)).collect()
}

// --- Rules ---

fn imports(tree: &Tree) -> Vec<String> {
    let mut edges = BTreeMap::new();
    let mut findings = Vec::new();
    for (path, code) in production(tree) {
        let room = room_of(path);
        if floor_of(room).is_none() {
            findings.push(format!("{path}: room {room:?} is on no floor; add it to FLOORS in tests/layout.rs"));
        }
        for (line, used) in imported_rooms(path, &code) {
            if used == room {
                continue;
            }
            edges.entry((room, used.clone())).or_insert_with(|| format!("{path}:{line}"));
            if floor_of(&used).is_none() {
                findings.push(format!("{path}:{line}: crate::{used} is no room on a floor; import it from its room"));
            }
        }
    }
    let is_mutual = |from: &str, to: &str| edges.keys().any(|(other, used)| *other == to && used == from);
    for ((from, to), place) in &edges {
        let direction = match (floor_of(from), floor_of(to)) {
            (Some(from), Some(to)) if to < from => continue,
            (Some(from), Some(to)) if to == from => "beside it",
            (Some(_), Some(_)) => "above it",
            (None, _) | (_, None) => continue,
        };
        let circle = if is_mutual(from, to) { format!(", and {to} imports {from}: a circle") } else { String::new() };
        findings.push(format!("{place}: {from} imports {to}, which is {direction}{circle}"));
    }
    findings
}

fn libraries(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, code) in production(tree) {
        for (library, room) in LIBRARIES {
            let named = words(&code, library).find(|at| is_library(&code, *at, library));
            if let Some(at) = named.filter(|_| room_of(path) != room) {
                findings.push(format!("{path}:{}: {library} is used in {room} only", line_of(&code, at)));
            }
        }
    }
    findings
}

fn repeated_names(tree: &Tree) -> Vec<String> {
    let mut paths: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in tree.keys().filter(|path| path.starts_with("src/")) {
        let (folder, name) = path.rsplit_once('/').expect("a folder");
        if name != "mod.rs" && !DIALECTS.contains(&folder) {
            paths.entry(name).or_default().push(path);
        }
    }
    let repeated = paths.into_iter().filter(|(_, paths)| paths.len() > 1);
    repeated.map(|(name, paths)| format!("{name} occurs more than once: {}", paths.join(", "))).collect()
}

fn long_files(tree: &Tree) -> Vec<String> {
    let sources = tree.iter().filter(|(path, _)| path.starts_with("src/") || path.starts_with("migrations/src/"));
    let lengths = sources.map(|(path, text)| (path, lines_before_tests(text)));
    let too_long = lengths.filter(|(_, lines)| *lines > MOST_LINES);
    too_long.map(|(path, lines)| format!("{path}: {lines} lines before its tests, at most {MOST_LINES}")).collect()
}

fn long_lines(tree: &Tree) -> Vec<String> {
    let lines =
        tree.iter().flat_map(|(path, text)| text.lines().zip(1..).map(move |(line, number)| (path, number, line)));
    let widths = lines.map(|(path, number, line)| (path, number, line.chars().count()));
    let too_wide = widths.filter(|(_, _, columns)| *columns > MOST_COLUMNS);
    too_wide
        .map(|(path, number, columns)| format!("{path}:{number}: {columns} columns, at most {MOST_COLUMNS}"))
        .collect()
}

/// The first sentence of a doc comment is read alone, in lists and in tooltips.
fn vague_comments(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in tree {
        let mut goes_on = false;
        for (line, number) in text.lines().zip(1..) {
            let comment = ["///", "//!"].into_iter().find_map(|mark| line.trim_start().strip_prefix(mark));
            if !goes_on && comment.is_some_and(|text| text.trim_start().starts_with("The same")) {
                findings.push(format!("{path}:{number}: a comment that begins with \"The same\": name the thing"));
            }
            goes_on = comment.is_some();
        }
    }
    findings
}

// --- Reading the source ---

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// The first part of a path below `src/`.
fn room_of(path: &str) -> &str {
    let path = path.trim_start_matches("src/");
    path.split_once('/').map_or_else(|| path.trim_end_matches(".rs"), |(folder, _)| folder)
}

/// The files of `src/` without comments, texts and tests. Line numbers stay as they are.
fn production(tree: &Tree) -> impl Iterator<Item = (&str, String)> {
    let sources = tree.iter().filter(|(path, _)| path.starts_with("src/"));
    let mut codes: BTreeMap<_, _> = sources.map(|(path, text)| (path.as_str(), code(text))).collect();
    let tests: BTreeSet<String> = codes.iter_mut().flat_map(|(path, code)| cut_tests(path, code)).collect();
    codes.into_iter().filter(move |(path, _)| !tests.contains(*path))
}

/// The text with comments, strings and characters blanked.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let follows_a_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let blank = length_of_blank(rest, follows_a_word);
        let taken = if blank == 0 { first.len_utf8() } else { blank };
        let (skipped, after) = rest.split_at(taken);
        if blank == 0 {
            code.push(first);
        } else {
            code.extend(skipped.chars().map(|c| if c == '\n' { c } else { ' ' }));
        }
        rest = after;
    }
    code
}

/// The bytes of a comment, string or character that `text` begins with; 0 if it begins with none.
fn length_of_blank(text: &str, follows_a_word: bool) -> usize {
    let through = |end: usize| end.min(text.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        let (mut depth, mut at) = (1_usize, 2);
        while depth > 0 && at < text.len() {
            let two = text.as_bytes().get(at..at + 2);
            (depth, at) = match two {
                Some(b"/*") => (depth + 1, at + 2),
                Some(b"*/") => (depth - 1, at + 2),
                _ => (depth, at + 1),
            };
        }
        return through(at);
    }
    let literal = if follows_a_word { text } else { text.trim_start_matches(['b', 'c']) };
    let raw = literal.strip_prefix('r').filter(|_| !follows_a_word);
    let hashes = raw.map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
    if raw.is_some_and(|raw| raw[hashes..].starts_with('"')) {
        let start = text.len() - literal.len() + 1 + hashes + 1;
        let end = format!("\"{}", "#".repeat(hashes));
        return text[start..].find(&end).map_or(text.len(), |at| start + at + end.len());
    }
    let prefix = text.len() - literal.len();
    if literal.starts_with('"') {
        return through(prefix + closing(literal, '"'));
    }
    let mut character = literal.strip_prefix('\'').unwrap_or_default().chars();
    let is_character = matches!((character.next(), character.next()), (Some('\\'), _) | (Some(_), Some('\'')));
    if is_character { through(prefix + closing(literal, '\'')) } else { 0 }
}

/// The bytes up to and with the quote that closes the one at the beginning.
fn closing(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Blanks what is compiled for tests only. Returns the files that are tests as a whole.
fn cut_tests(path: &str, code: &mut String) -> Vec<String> {
    const MARK: &str = "#[cfg(test)]";
    let mut files = Vec::new();
    while let Some(start) = code.find(MARK) {
        let item = &code[start + MARK.len()..];
        let end_of_item = item.find(['{', ';']).map_or(item.len(), |at| {
            if item[at..].starts_with(';') { at + 1 } else { at + end_of_braces(&item[at..]) }
        });
        let name = item[..end_of_item].split_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
        files.extend(name.map(|name| format!("{}/{}.rs", folder_of_children(path), name.trim())));
        let end = start + MARK.len() + end_of_item;
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    files
}

fn folder_of_children(path: &str) -> &str {
    ["/mod.rs", "/lib.rs", "/main.rs", ".rs"].into_iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path)
}

/// The bytes up to and with the brace that closes the one at the beginning.
fn end_of_braces(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// The rooms that paths lead to, with line numbers: `crate::a`, `crate::{a, b::c}`, the library in `main.rs`, and
/// as many `super::` as it takes to leave the room.
fn imported_rooms(path: &str, code: &str) -> Vec<(usize, String)> {
    let depth = path.matches('/').count() - usize::from(folder_of_children(path) != path.trim_end_matches(".rs"));
    let upward = "super::".repeat(depth);
    let mut rooms = Vec::new();
    for root in ["crate", "volume_reaper", "super"] {
        for at in words(code, root) {
            let from = &code[at..];
            let rest = match root {
                "super" if code[..at].ends_with("super::") => None,
                "super" => from.strip_prefix(upward.as_str()).filter(|rest| !rest.starts_with("super")),
                _ => from[root.len()..].trim_start().strip_prefix("::"),
            };
            let Some(rest) = rest else { continue };
            let begins = code.len() - rest.len();
            rooms.extend(heads(rest).into_iter().map(|(at, room)| (line_of(code, begins + at), room)));
        }
    }
    rooms
}

/// The first words of what follows `crate::`: one, or several in braces.
fn heads(path: &str) -> Vec<(usize, String)> {
    let start = path.len() - path.trim_start().len();
    if !path[start..].starts_with('{') {
        return vec![(start, word_at(path, start))];
    }
    let mut heads = Vec::new();
    let (mut depth, mut is_head) = (0_usize, false);
    for (at, c) in path[..start + end_of_braces(&path[start..])].char_indices().skip(start) {
        match c {
            '{' => (depth, is_head) = (depth + 1, depth == 0),
            '}' => depth -= 1,
            ',' => is_head = depth == 1,
            c if is_head && !c.is_whitespace() => {
                heads.push((at, word_at(path, at)));
                is_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word that begins there; what stands there if it is none, such as `*`.
fn word_at(text: &str, at: usize) -> String {
    let word: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
    if word.is_empty() { text[at..].chars().take(1).collect() } else { word }
}

/// Where `word` stands as a whole word.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_whole = move |at: &usize| !code[..*at].ends_with(is_word) && !code[*at + word.len()..].starts_with(is_word);
    code.match_indices(word).map(|(at, _)| at).filter(is_whole)
}

/// Whether the word there begins a path or is imported whole, and is no variable or module of ours.
fn is_library(code: &str, at: usize, library: &str) -> bool {
    let (before, after) = (code[..at].trim_end(), code[at + library.len()..].trim_start());
    let is_absolute = before.strip_suffix("::").is_some_and(|before| !before.ends_with(is_word));
    let begins = !before.ends_with("::") || is_absolute;
    let is_imported = before.ends_with("use") && (after.starts_with(';') || after.starts_with("as "));
    begins && (after.starts_with("::") || is_imported)
}

fn line_of(code: &str, at: usize) -> usize {
    1 + code[..at].matches('\n').count()
}

fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    tests.unwrap_or(lines.len())
}

fn read(folder: &Path, root: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(&path, root, tree);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below it").to_string_lossy().into_owned();
            tree.insert(name, fs::read_to_string(&path).expect("readable"));
        }
    }
}

// --- The tests ---

#[test]
fn the_source_keeps_its_layout() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    for folder in ["src", "migrations", "tests", "examples", "benches"] {
        read(&root.join(folder), root, &mut tree);
    }
    assert!(tree.contains_key("src/main.rs"), "the source is found");
    let findings = findings(&tree);
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// A tree that keeps the layout, with more files or other ones.
fn tree_with(files: &[(&str, &str)]) -> Tree {
    let clean = [
        ("src/lib.rs", "pub mod queue;\n"),
        ("src/main.rs", "use volume_reaper::{cli, commands};\n"),
        ("src/failure.rs", "//! Errors. See [`crate::queue`].\n"),
        ("src/cleanup/mod.rs", "use crate::failure::Failure;\npub(crate) mod outcome;\n"),
        ("src/cleanup/outcome.rs", "use super::{cleaner, ports::Volumes};\nuse crate::cleanup::policy;\n"),
        ("src/queue/mod.rs", "use crate::{\n    cleanup::{ports, outcome},\n    failure,\n};\nuse lapin::Channel;\n"),
        ("src/store/mod.rs", "fn marked() -> crate::cleanup::outcome::Outcome { \"crate::cli\" }\n"),
        ("src/store/postgres/lock.rs", "use sea_orm::DbErr;\n"),
        ("src/store/sqlite/lock.rs", "use super::super::pool;\n"),
    ];
    clean.iter().chain(files).map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

/// The findings in a clean tree with these files.
fn found_in(files: &[(&str, &str)]) -> Vec<String> {
    findings(&tree_with(files))
}

#[test]
fn a_clean_tree_has_no_findings() {
    assert_eq!(found_in(&[]), [""; 0]);
}

#[test]
fn an_import_from_above_is_refused_wherever_the_path_stands() {
    let expected =
        |line: usize| [format!("src/cleanup/cleaner.rs:{line}: cleanup imports commands, which is above it")];
    for (line, code) in [
        (1, "use crate::commands;\n"),
        (2, "\npub(crate) use crate::commands::Run as R;\n"),
        (3, "use crate::{\n    failure::{Failure, queue},\n    commands::Run,\n};\n"),
        (2, "fn size() -> u32 {\n    crate::commands::SIZE\n}\n"),
        (1, "use super::super::commands;\n"),
        (1, "use super::super::{failure, commands};\n"),
        (2, "const QUOTE: char = '\"';\nuse crate::commands; // \"\n"),
    ] {
        assert_eq!(found_in(&[("src/cleanup/cleaner.rs", code)]), expected(line), "{code}");
    }
    assert_eq!(
        found_in(&[("src/cleanup/mod.rs", "use super::commands;")]),
        ["src/cleanup/mod.rs:1: cleanup imports commands, which is above it"]
    );
}

#[test]
fn a_circle_is_refused_and_named() {
    let circle = [("src/store/mod.rs", "use crate::queue;"), ("src/queue/mod.rs", "use crate::store;")];
    assert_eq!(
        found_in(&circle),
        [
            "src/queue/mod.rs:1: queue imports store, which is beside it, and store imports queue: a circle",
            "src/store/mod.rs:1: store imports queue, which is beside it, and queue imports store: a circle",
        ]
    );
    let downward = [("src/failure.rs", "use crate::cleanup;")];
    assert_eq!(
        found_in(&downward),
        ["src/failure.rs:1: failure imports cleanup, which is above it, and cleanup imports failure: a circle"]
    );
}

#[test]
fn what_is_in_comments_texts_and_tests_is_no_import() {
    for code in [
        "/// As [`crate::queue`] has it.\nfn f() {}\n",
        "/* crate::queue /* and */ crate::queue */\n",
        "const A: &str = \"\\\" crate::queue\";\n",
        "const A: &str = r#\"a \" crate::queue lapin::x\"#;\nfn f<'a>(a: &'a str) {}\n",
        "#[cfg(test)]\nmod tests {\n    use crate::{queue, store};\n    fn f() { lapin::x() }\n}\n",
        "#[cfg(test)]\nuse crate::queue;\n",
    ] {
        assert_eq!(found_in(&[("src/cleanup/cleaner.rs", code)]), [""; 0], "{code}");
    }
    let in_a_file =
        [("src/cleanup/mod.rs", "#[cfg(test)]\nmod rules;\n"), ("src/cleanup/rules.rs", "use crate::queue;")];
    assert_eq!(found_in(&in_a_file), [""; 0]);
    let behind_tests = "#[cfg(test)]\nmod tests {}\nuse crate::queue;\n";
    assert_eq!(found_in(&[("src/cleanup/cleaner.rs", behind_tests)]).len(), 1);
}

#[test]
fn what_is_on_no_floor_is_refused() {
    assert_eq!(
        found_in(&[("src/attic.rs", ""), ("src/queue/mod.rs", "use crate::attic::Box;")]),
        [
            "src/attic.rs: room \"attic\" is on no floor; add it to FLOORS in tests/layout.rs",
            "src/queue/mod.rs:1: crate::attic is no room on a floor; import it from its room",
        ]
    );
    assert_eq!(
        found_in(&[("src/queue/mod.rs", "use crate::*;")]),
        ["src/queue/mod.rs:1: crate::* is no room on a floor; import it from its room"]
    );
}

#[test]
fn a_library_outside_its_room_is_refused() {
    for (library, room) in LIBRARIES {
        for code in [
            format!("use {library}::Thing;"),
            format!("use {library} as other;"),
            format!("use {library};"),
            format!("fn f() -> ::{library}::Thing {{}}"),
            format!("use {{{library}::Thing, std::fmt}};"),
        ] {
            let expected = [format!("src/cleanup/cleaner.rs:1: {library} is used in {room} only")];
            assert_eq!(found_in(&[("src/cleanup/cleaner.rs", &code)]), expected, "{code}");
            assert_eq!(found_in(&[(&format!("src/{room}/thing.rs"), &code)]), [""; 0], "{code}");
        }
    }
    let names_of_ours = "fn f(backoff: B) { backoff.next(); self::bollard::x(); hyper_rustls::y(); }";
    assert_eq!(found_in(&[("src/cleanup/cleaner.rs", names_of_ours)]), [""; 0]);
}

#[test]
fn a_file_name_that_occurs_twice_is_refused() {
    assert_eq!(
        found_in(&[("src/queue/lock.rs", ""), ("src/docker/lock.rs", "")]),
        ["lock.rs occurs more than once: src/docker/lock.rs, src/queue/lock.rs"]
    );
}

#[test]
fn a_file_that_is_long_before_its_tests_is_refused() {
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(500));
    let fits = "\n".repeat(300) + &tests;
    assert_eq!(found_in(&[("src/queue/mod.rs", &fits)]), [""; 0]);
    let expected = ["src/queue/mod.rs: 301 lines before its tests, at most 300"];
    assert_eq!(found_in(&[("src/queue/mod.rs", &("\n".to_owned() + &fits))]), expected);
}

#[test]
fn a_line_that_is_too_wide_is_refused_in_every_folder() {
    for path in ["src/queue/mod.rs", "tests/integration/world.rs"] {
        assert_eq!(found_in(&[(path, &format!("// {}\n", "ß".repeat(117)))]), [""; 0]);
        let expected = [format!("{path}:2: 121 columns, at most 120")];
        assert_eq!(found_in(&[(path, &format!("\n// {}\n", "ß".repeat(118)))]), expected);
    }
}

#[test]
fn a_comment_that_needs_the_one_before_it_is_refused() {
    let expected = ["src/queue/mod.rs:1: a comment that begins with \"The same\": name the thing"];
    for comment in ["/// The same, and waits.", "//! The same for queues.", "    /// The same as above."] {
        assert_eq!(found_in(&[("src/queue/mod.rs", comment)]), expected);
    }
    let within = "/// Waits for a message.\n/// The same limit holds for all.\n// The same here.\n";
    assert_eq!(found_in(&[("src/queue/mod.rs", within)]), [""; 0]);
}
