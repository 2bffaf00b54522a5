//! As much XML as descriptions and answers of UPnP gateways need: what stands in elements of a name.
//!
//! Prefixes and attributes are passed over, nothing is expanded, and what is not well-formed ends
//! the search. Every document is read once, however it is made.

/// What stands in the elements of this name, one after the other; those inside are not looked at.
pub fn elements<'a>(document: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut rest = document;
    std::iter::from_fn(move || {
        loop {
            let tag = Tag::next(rest)?;
            rest = tag.after;
            if tag.closes || tag.is_empty || tag.name != name {
                continue;
            }
            let content = rest;
            loop {
                let tag = Tag::next(rest)?;
                let end = content.len().checked_sub(rest.len())? + tag.at;
                rest = tag.after;
                if tag.closes && tag.name == name {
                    return content.get(..end);
                }
            }
        }
    })
}

/// The text of the first element of this name.
#[must_use]
pub fn text<'a>(document: &'a str, name: &'a str) -> Option<&'a str> {
    elements(document, name).next().map(str::trim)
}

/// A tag in a document.
#[derive(Debug, Clone, Copy)]
struct Tag<'a> {
    /// Where it begins.
    at: usize,
    /// Its name without a prefix.
    name: &'a str,
    closes: bool,
    is_empty: bool,
    after: &'a str,
}

impl<'a> Tag<'a> {
    fn next(document: &'a str) -> Option<Self> {
        let at = document.find('<')?;
        let (inside, after) = document.get(at + 1..)?.split_once('>')?;
        let (inside, closes) = match inside.strip_prefix('/') {
            Some(inside) => (inside, true),
            None => (inside, false),
        };
        let is_empty = inside.ends_with('/');
        let whole = inside.split([' ', '\t', '\r', '\n', '/']).next()?;
        let name = whole.rsplit(':').next()?;
        Some(Self {
            at,
            name,
            closes,
            is_empty,
            after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_whatever_their_prefix_and_attributes() {
        let document = "<?xml version=\"1.0\"?><a:root x='1'><b>one</b><c/><u:b y=\"2\"> two\n</u:b>\
            <b/><B>no</B><b></b></a:root>";
        let all: Vec<&str> = elements(document, "b").collect();
        assert_eq!(all, ["one", " two\n", ""]);
        assert_eq!(text(document, "b"), Some("one"));
        assert_eq!(text(document, "c"), None);
    }

    #[test]
    fn what_is_not_well_formed_ends_the_search() {
        for document in ["<b>", "<b", "<b>x</c>", "b>x</b>", "<<b>x", "</b><b", ""] {
            assert_eq!(text(document, "b"), None, "{document:?}");
        }
    }
}
