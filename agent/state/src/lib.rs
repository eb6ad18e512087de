//! Writer and Reader of one snapshot of the mesh; resolve: the L4 decisions as data.
