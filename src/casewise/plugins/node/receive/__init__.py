"""The ways in which images arrive: DICOM, STOW-RS and a watched folder, which all end in the inbox."""
