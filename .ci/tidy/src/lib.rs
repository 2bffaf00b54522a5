//! Checks of the tree itself: layering, module docs, file sizes, reasons for allowed lints.
//!
//! All of it is in `tests/`; this crate has no code that others use.
