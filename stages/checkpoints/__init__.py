"""Reading and writing trained models as folders, in this project's own form and those of other projects."""
