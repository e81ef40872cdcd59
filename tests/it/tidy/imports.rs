//! Which file imports from which. Each path in the code, in a `use` or elsewhere, is followed to the file that defines what it
//! names: an import by way of a `pub use` is one from that file, and none from the file with the `pub use`.
//!
//! Left out are inline modules for tests (`#[cfg(test)] mod tests { … }`), and `mod x;`, since a parent has to name its
//! children. What a file uses without a path, such as a method of a type that it was handed, can't be seen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The files that each file imports from. Files are named as below `src`.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

type Path = Vec<String>;

/// What a file says.
#[derive(Default)]
struct Said {
    /// All paths, each with the module that it is written in.
    paths: Vec<(Path, Path)>,
    /// What each `use` brings, by its name in this file.
    names: BTreeMap<String, Path>,
}

struct Crate {
    files: BTreeMap<Path, String>,
    said: BTreeMap<Path, Said>,
}

/// Reads the files of one crate, by name and content.
pub fn imports(sources: &[(String, String)]) -> Imports {
    let files: BTreeMap<Path, String> = sources.iter().map(|(file, _)| (module(file), file.clone())).collect();
    let mut all = Crate { files, said: BTreeMap::new() };
    for (file, source) in sources {
        let tokens: TokenStream = source.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut said = Said::default();
        said.read(tokens, &module(file));
        all.said.insert(module(file), said);
    }
    let from = |(at, said): (&Path, &Said)| {
        let to = said.paths.iter().filter_map(|(within, path)| all.file_of(&all.absolute(within, path)?));
        let file = all.files[at].clone();
        (file.clone(), to.filter(|to| *to != file).collect())
    };
    all.said.iter().map(from).collect()
}

/// The files of one circle each, in the order of their imports, until no file is in two of them.
pub fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let mut left = imports.clone();
    let mut found = Vec::new();
    for start in imports.keys() {
        if let Some(circle) = shortest_way_back(&left, start) {
            left.retain(|file, _| !circle.contains(file));
            found.push(circle);
        }
    }
    found
}

fn shortest_way_back(imports: &Imports, start: &str) -> Option<Vec<String>> {
    let mut ways = VecDeque::from([vec![start.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for next in imports.get(way.last()?).into_iter().flatten() {
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                ways.push_back([way.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`. A program beside the library is taken for a module of it.
fn module(file: &str) -> Path {
    let path: Path = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    path.into_iter().filter(|part| part != "mod" && part != "lib").collect()
}

impl Crate {
    /// A path from the crate's root; `None` for what belongs to another crate.
    fn absolute(&self, within: &[String], path: &[String]) -> Option<Path> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" | "wq_run" => Some(rest.to_vec()),
            "self" => Some([within, rest].concat()),
            "super" => {
                let mut base = within.split_last()?.1;
                let mut rest = rest;
                while rest.first().is_some_and(|part| part == "super") {
                    (base, rest) = (base.split_last()?.1, &rest[1..]);
                }
                Some([base, rest].concat())
            }
            child => self.files.contains_key(&[within, &[child.to_owned()]].concat()).then(|| [within, path].concat()),
        }
    }

    /// The file that defines what a path from the crate's root names.
    fn file_of(&self, path: &[String]) -> Option<String> {
        let mut path = path.to_vec();
        // A `pub use` may name another.
        for _ in 0..8 {
            let at =
                (0..=path.len()).rev().map(|length| &path[..length]).find(|part| self.files.contains_key(*part))?;
            let named = path.get(at.len()).and_then(|name| self.said[at].names.get(name));
            let Some(next) = named.and_then(|named| self.absolute(at, named)) else {
                return Some(self.files[at].clone());
            };
            let next = [&next[..], &path[at.len() + 1..]].concat();
            if next == path {
                return Some(self.files[at].clone());
            }
            path = next;
        }
        panic!("{} is a circle of `pub use`", path.join("::"));
    }
}

impl Said {
    fn read(&mut self, tokens: TokenStream, within: &[String]) {
        let tokens = without_tests(tokens);
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at..] {
                [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body), ..] if word == "mod" => {
                    self.read(body.stream(), &[within, &[name.to_string()]].concat());
                    at += 3;
                }
                [TokenTree::Ident(word), ..] if word == "use" => {
                    let length = tokens[at..].iter().take_while(|token| !is(token, ';')).count();
                    self.tree(&tokens[at + 1..at + length], &[], within);
                    at += length;
                }
                [TokenTree::Group(group), ..] => {
                    self.read(group.stream(), within);
                    at += 1;
                }
                [TokenTree::Ident(_), ..] if at == 0 || !is(&tokens[at - 1], '.') => {
                    let (path, length) = path_at(&tokens[at..]);
                    if path.len() > 1 || tokens.get(at + length).is_some_and(|next| is(next, ':')) {
                        self.paths.push((within.to_vec(), path));
                    }
                    at += length;
                }
                _ => at += 1,
            }
        }
    }

    /// A part of a `use`, behind what it is a part of.
    fn tree(&mut self, tokens: &[TokenTree], before: &[String], within: &[String]) {
        let (path, length) = path_at(tokens);
        let path = [before, &path].concat();
        let rest = &tokens[length..];
        match rest.iter().find(|token| !is(token, ':')) {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for part in inner.split(|token| is(token, ',')).filter(|part| !part.is_empty()) {
                    self.tree(part, &path, within);
                }
            }
            other => {
                let path =
                    if path.len() > 1 { path.strip_suffix(&["self".to_owned()]).unwrap_or(&path) } else { &path };
                let name = match (other, rest.last()) {
                    (Some(TokenTree::Ident(word)), Some(TokenTree::Ident(alias))) if word == "as" => alias.to_string(),
                    _ => path.last().cloned().unwrap_or_default(),
                };
                let by_glob = other.is_some_and(|token| is(token, '*'));
                if !by_glob {
                    self.names.insert(name, path.to_vec());
                }
                self.paths.push((within.to_vec(), path.to_vec()));
            }
        }
    }
}

/// `a::b::c` at the beginning of some tokens, and how many they are.
fn path_at(tokens: &[TokenTree]) -> (Path, usize) {
    let mut path = Vec::new();
    let mut at = 0;
    while let Some(TokenTree::Ident(part)) = tokens.get(at) {
        path.push(part.to_string());
        at += 1;
        match &tokens[at..] {
            [first, second, TokenTree::Ident(_), ..] if is(first, ':') && is(second, ':') => at += 2,
            _ => break,
        }
    }
    (path, at)
}

/// Some tokens but for inline modules for tests.
pub fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let all: Vec<TokenTree> = tokens.into_iter().collect();
    let mut left = Vec::new();
    let mut rest = all.as_slice();
    while let Some((token, others)) = rest.split_first() {
        rest = match rest {
            [hash, TokenTree::Group(attribute), TokenTree::Ident(word), _, TokenTree::Group(_), others @ ..]
                if is(hash, '#') && attribute.stream().to_string().replace(' ', "") == "cfg(test)" && word == "mod" =>
            {
                others
            }
            _ => {
                left.push(token.clone());
                others
            }
        };
    }
    left
}

fn is(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

#[test]
fn every_way_to_name_a_file_is_an_import_of_it() {
    let source = |(file, text): (&str, &str)| (file.to_owned(), text.to_owned());
    let found = |text: &str| {
        let others = [
            ("lib.rs", ""),
            ("a/mod.rs", "mod c; mod d; pub use c::C; pub use crate::b as renamed; pub struct A;"),
            ("a/c.rs", "pub struct C;"),
            ("a/d/mod.rs", "mod e;"),
            ("b.rs", "pub use crate::a::C as Again;"),
            ("a/d/e.rs", text),
        ];
        imports(&others.map(source)).remove("a/d/e.rs").unwrap().into_iter().collect::<Vec<_>>().join(" ")
    };
    for (text, expected) in [
        ("use crate::b::B;", "b.rs"),
        ("pub(crate) use crate::{a::{c::{self, C}}, b as other};", "a/c.rs b.rs"),
        ("use super::D; use super::super::A;", "a/d/mod.rs a/mod.rs"),
        ("use super::super::*;", "a/mod.rs"),
        ("fn f() { select! { x = crate::b::f::<u8>(&[super::super::c::C]) => {} } }", "a/c.rs b.rs"),
        ("mod inline { use super::super::D; use super::Own; }", "a/d/mod.rs"),
        // By way of a `pub use`, one after the other too.
        ("use crate::a::C;", "a/c.rs"),
        ("use crate::b::Again;", "a/c.rs"),
        ("use crate::a::renamed::Again as Other;", "a/c.rs"),
        // Not from here, not in code, not by a path, only for tests.
        ("use std::a::b; use b::X; use self::Own;", ""),
        ("// crate::b\n/* crate::b */ const S: &str = \"crate::b\"; fn f() { x.a::<u8>(); mod b; }", ""),
        ("#[cfg(test)] mod tests { use crate::b::B; }", ""),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
}

#[test]
fn a_circle_is_found_and_named() {
    let imports = |pairs: &[(&str, &str)]| -> Imports {
        let mut imports = Imports::new();
        for (from, to) in pairs {
            imports.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        imports
    };
    assert!(circles(&imports(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])).is_empty());
    let found =
        circles(&imports(&[("a", "b"), ("b", "c"), ("c", "b"), ("d", "e"), ("e", "f"), ("f", "d"), ("f", "a")]));
    assert_eq!(found, [vec!["b", "c"], vec!["d", "e", "f"]]);
}
